// Package mqttsn is an MQTT-SN 1.2 gateway: nodes that speak MQTT-SN over UDP become MQTT clients of the broker
// in the same process. It is a listener and no driver: what a node publishes is its own, on topics of its own.
//
//	UDP ─► Serve ─┬─ no state: SEARCHGW, QoS -1, strangers
//	              │
//	              └─► client (one goroutine each) ──MQTT 5 over a pipe──► broker ─► journal
//	UDP ◄──────────── REGISTER, PUBLISH, answers ◄──Receive Maximum 1──── session's queue
//
// Because each client has an MQTT connection of its own, sessions, rights, limits and the promise "accepted means
// stored" are the broker's, and there is no second kind of them here: a PUBACK or PUBREC goes to the node when the
// broker's has come. A node's MsgId is the packet identifier of its MQTT connection, so what the broker knows of
// QoS 2 across connections and restarts holds for nodes too.
//
// # Towards a node
//
// At most one message that is to be acknowledged is on its way to a node (§6.10). Receive Maximum 1 makes the broker
// keep the others in the session's queue, which is bounded as any session's is; what is here is one message, and up to
// maxWaiting at QoS 0, of which the oldest goes first. A message that is not answered is repeated after RetryInterval
// with DUP, Retries times; then the node is lost (§6.13), or, if it had only woken up to look, asleep again.
//
// # Sleep, §6.14
//
//	active ──DISCONNECT(duration)──► asleep ──PINGREQ(id)──► awake
//	   ▲                              │   ▲                   │
//	   └───────── CONNECT ────────────┘   └─ queue, PINGRESP ─┘
//
// The MQTT connection stays while a node sleeps. Awake ends when nothing is left: an MQTT PINGREQ behind the last
// acknowledgement is answered behind whatever the broker had waiting.
//
// # Strangers
//
// Anybody can send a datagram with any address in it. Until a CONNECT names a client that is allowed nothing is
// remembered about its sender but a token bucket in a table of fixed size, and no answer is larger than what it
// answers. An MQTT-SN message proves nothing about who sent it; docs/mqtt-sn.md says what follows from that.
package mqttsn
