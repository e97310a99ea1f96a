// Package broker is Weir's MQTT side: an MQTT 3.1.1 and 5 server whose every promise
// rests on the journal. What a client publishes becomes an event like any other; the
// client hears of it when the event is stored.
//
//	socket ─► front ─┬─ PUBLISH, PUBREL ─► rights ─► Ingest ─► journal
//	                 │                                            │ released, in order
//	                 ├─ acks of our messages ─► session           ▼
//	                 │                            Deliver: view, then subscribers
//	                 └─ CONNECT, SUBSCRIBE,                       │
//	                    UNSUBSCRIBE, PINGREQ ─► mochi             ▼
//	socket ◄─ writer ◄────────────────────────── answers, messages, mochi's answers
//
// # What is whose
//
// mochi-mqtt is the engine (engine.go is all that knows it). It runs the dialogue of a
// connection: it decodes and answers CONNECT, SUBSCRIBE, UNSUBSCRIBE and PINGREQ, and asks us what to
// decide. Its server is not started; its sessions end with their connection.
//
// The front (front.go) owns the socket and is the net.Conn that mochi reads from. It
// checks every packet before mochi sees it, hands over one per Read, and never hands
// over a PUBLISH or one of the four acknowledgements. This is another way than
// DESIGN.md's prototype, which let mochi see PUBLISH and rejected it in a hook: there
// mochi's receive quota, its in-flight set and its alias order stay in the way of the
// answers. Here they are never touched, and what follows authentication still does so,
// because mochi asks for the next packet only when it is done with the last.
//
// Ours, with the fault of mochi 2.7.9 that each is instead of: answers in order after
// the sync (acknowledged before it is stored) · QoS 2 identifiers per session, durable
// (in memory, resent as a false PUBREC) · delivery at QoS 1 and 2 (Receive Maximum 10: 30 of 500
// messages, then silence; a stalled subscriber freezes publishers) · the subscription tree
// ("+/#" does not match "a"; No Local of one subscription silences another) · retained
// messages ("a/#" misses the one of "a"; all expire after a day) · wills (no properties,
// no rights, no empty payload) · sessions and takeover (two connects at once) · CONNACK's
// limits and v3.1.1 codes · keep alive (above 43,690 s it disconnects at once).
//
// # Sessions
//
// A session that outlives its connection (v3.1.1: clean session 0, v5: session expiry above
// 0) is durable. Its beginning, subscriptions, QoS 2 releases and end are Change entries in
// the journal; apply (view.go) makes the same state of them live and at start, and a
// checkpoint keeps that short. CONNACK of a new one, SUBACK and UNSUBACK wait for the
// sync. Any other session costs the journal nothing.
//
// # Refusals
//
// v5 gets the reason in PUBACK or PUBREC. v3.1.1 has none: the answer stays away, and with
// it all answers behind; Weir reads nothing for Options.RefusalPause and closes. At QoS 0 a
// refused publish is dropped and counted. A denied publish is never acknowledged as if it had been
// taken, which §3.3.5.2 of 3.1.1 would allow.
//
// # Limits of this version
//
// Messages on their way to a client (queued or in flight, QoS 1 and 2) are in memory:
// a durable session has its subscriptions back after a crash, but what was published
// while it was away before that is lost to it, though not to the journal. Its queue is bounded
// (Options.SessionQueue, QueueBytes); a connected receiver at the bound is closed, for an absent
// one what is new is dropped; both are counted. Wills of clients that are connected when
// the process is killed, and delayed wills, are not sent after the next start. Weir sends no
// topic aliases. Enhanced authentication (AUTH) is refused with 0x8C.
package broker
