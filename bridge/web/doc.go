// Package web is the last mile: live data in any browser, resumed without a gap.
//
//	gateway.Hub ──► Reader ──► encode once ──► SSE          /events
//	   (Feed)       one per                └─► Centrifugo   /connection/websocket
//	                stream
//	browser ──► /api/publish ──► Ingest           /mqtt ──► net.Conn ──► broker
//
// Every stream is a cursor of its own over the journal, and nothing is queued for it:
// a slow client reads later, from disk if need be, and costs the others nothing. A
// position is one number in one journal, so one epoch:offset resumes any set of
// topic filters. What cannot be had any more is said in band, as a gap.
//
// Everything goes through one door (door.go): Origin and Host are checked, then the
// account, with the policy that MQTT uses too.
package web
