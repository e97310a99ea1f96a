// Package auth is the one policy of who may do what: users with argon2id passwords,
// roles with topic patterns. MQTT, MQTT-SN, WebSocket, SSE and HTTP ask the same functions, so
// that no door is easier than another.
//
//	name, password ──► Policy.Authenticate ──► Account ──► CanPublish, CanSubscribe, CanRead
//
// Everything is denied that no pattern of the account's role allows. Without any user
// the policy is open; package config sees to it that an open gateway listens on
// loopback only.
package auth
