package mqtt

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// azureVersion is the IoT Hub API that a connection asks for.
const azureVersion = "2021-04-12"

// sasToken is the password of a device with a shared access key: it proves the key until a time,
// and IoT Hub ends the connection then.
func sasToken(hub, device string, key []byte, until time.Time) string {
	resource := url.QueryEscape(hub + "/devices/" + device)
	expiry := strconv.FormatInt(until.Unix(), 10)
	sign := hmac.New(sha256.New, key)
	sign.Write([]byte(resource + "\n" + expiry))
	signature := url.QueryEscape(base64.StdEncoding.EncodeToString(sign.Sum(nil)))
	return "SharedAccessSignature sr=" + resource + "&sig=" + signature + "&se=" + expiry
}

// azureBag puts the property bag behind the topic, which IoT Hub takes apart: system properties
// have names with "$.", all others are the application's. A message id there has no "/", so it is
// written with ":" instead; gateway ids and epochs have neither.
func azureBag(m *message) {
	var bag strings.Builder
	add := func(key, value string) {
		if bag.Len() > 0 {
			bag.WriteByte('&')
		}
		bag.WriteString(key)
		bag.WriteByte('=')
		bag.WriteString(escape(value))
	}
	add("$.mid", strings.ReplaceAll(m.id, "/", ":"))
	kind := m.contentType
	if kind == "" && json.Valid(m.payload) {
		kind = "application/json"
	}
	if kind != "" {
		add("$.ct", kind)
	}
	if utf8.Valid(m.payload) {
		add("$.ce", "utf-8") // without it, message routing does not look into the body
	}
	for _, p := range m.properties() {
		if key := escape(p.Key); p.Key != "" && p.Key[0] != '$' { // an event must not set system properties
			add(key, p.Value)
		}
	}
	m.topic += bag.String()
}

// escape is percent-encoding as in a query, with %20 for a space.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
