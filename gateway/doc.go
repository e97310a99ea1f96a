// Package gateway holds the words of Weir and its one verb, Ingest. It knows no
// technology: no MQTT engine, no file, no HTTP. Everything else in the module
// imports it; it imports the standard library only.
//
// # One reading, from a sensor to the browser and up the uplink
//
//	serial line, MQTT publish, HTTP post …
//	       │  Event
//	       ▼
//	Gateway.Ingest          validate, stamp, (Rules)
//	       │
//	       ▼
//	Journal.Append          one writer: offsets, one write(2), one sync for many
//	       │  released, in offset order
//	       ▼
//	Hub.Released ──► taps   MQTT subscribers, last values: told at once, in order
//	       │
//	       ├──► done(nil)   only now the sender gets its PUBACK, PUBREC or 2xx
//	       ▼
//	Reader.Next             a position in the journal: browser streams read what is
//	                        released, uplinks read what is synced
//
// # Three ideas
//
// One thing flows: an [Event]. What must not be lost is stored before anybody is
// told it was accepted. Every reader is a cursor: the [Hub] says "there is more"
// and hands over the fresh tail from memory; whoever falls behind reads the journal.
//
// # The floors
//
// Imports only go down: 0 gateway; 1 gateway/auth, gateway/child, devices/codec, devices/serial/port, bridge/dial, bridge/cloudevents;
// 2 gateway/broker, gateway/config, gateway/health, store, bridge/web, each driver and each sink; 3 devices, bridge;
// 4 cmd/weir, firmware-sim. Siblings on floor 2 never import each other; what one
// needs of another is handed in by cmd/weir/wire.go as a small function. The test in
// cmd/weir/floors_test.go enforces it.
//
// # Where to start reading
//
// event.go, then ingest.go and hub.go here; store/journal.go for what "stored"
// means; cmd/weir/wire.go for how the parts meet.
package gateway
