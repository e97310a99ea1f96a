package mqtt_test

import (
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/bridge/mqtt"
)

func TestPresetConfig(t *testing.T) {
	cert, key := bridgetest.NewAuthority(t).ClientFiles("gw")
	mutual := dial.Config{CertFile: cert, KeyFile: key}
	for _, c := range []struct {
		c    mqtt.Config
		lane int
		want string
	}{
		{mqtt.Config{Preset: "aws", URL: "mqtts://h"}, 0, `preset: unknown preset "aws": aws-iot, azure-iot-hub, emqx, hivemq, thingsboard`},
		{mqtt.Config{Preset: "aws-iot", URL: "mqtt://h"}, 0, "url: h takes TLS only: mqtts:// or wss://"},
		{mqtt.Config{Preset: "aws-iot", URL: "mqtts://h"}, 0, "cert_file: AWS IoT Core needs a cert_file and key_file"},
		{mqtt.Config{Preset: "aws-iot", URL: "wss://h"}, 0, "url: AWS IoT Core wants a signed request for wss://: use mqtts:// with a cert_file, on port 443 if 8883 is closed"},
		{mqtt.Config{Preset: "aws-iot", URL: "mqtts://h:443", Username: "u"}, 0, ""},
		{mqtt.Config{Preset: "aws-iot", URL: "mqtts://h", Config: mutual, Window: 500, Rate: 10, Retain: "keep", Version: "3.1.1"}, 3, ""},
		{mqtt.Config{Preset: "azure-iot-hub", URL: "mqtt://h", SharedAccessKey: "a2V5"}, 0, "url: h takes TLS only: mqtts:// or wss://"},
		{mqtt.Config{Preset: "azure-iot-hub", URL: "mqtts://h"}, 0, "shared_access_key: Azure IoT Hub needs a shared_access_key, or a cert_file and key_file"},
		{mqtt.Config{Preset: "azure-iot-hub", URL: "mqtts://h", SharedAccessKey: "-"}, 0, "shared_access_key: shared_access_key is not base64"},
		{mqtt.Config{Preset: "azure-iot-hub", URL: "mqtts://h", SharedAccessKey: "a2V5", TokenLifetime: time.Second}, 0, "token_lifetime: 1s is not from 1m to 30d"},
		{mqtt.Config{Preset: "azure-iot-hub", URL: "mqtts://h", SharedAccessKey: "a2V5", KeepAlive: time.Hour}, 0, "keep_alive: Azure IoT Hub takes at most 1177s"},
		{mqtt.Config{Preset: "azure-iot-hub", URL: "mqtts://h", SharedAccessKey: "a2V5", Topic: "x"}, 0, "topic: the property bag comes behind the topic, so it ends with /"},
		{mqtt.Config{Preset: "azure-iot-hub", URL: "mqtts://h", SharedAccessKey: "a2V5"}, 1, "preset: Azure IoT Hub takes one connection per device, so there are no lanes"},
		{mqtt.Config{Preset: "azure-iot-hub", URL: "mqtts://h", ClientID: "a#", SharedAccessKey: "a2V5"}, 0, `topic: topic "devices/a#/messages/events/": '#' is a wildcard and stands in filters only`},
		{mqtt.Config{Preset: "emqx", URL: "mqtt://broker.example.com"}, 0, ""},
		{mqtt.Config{Preset: "emqx", URL: "mqtt://x.emqxsl.com", Username: "u"}, 0, "url: x.emqxsl.com takes TLS only: mqtts:// or wss://"},
		{mqtt.Config{Preset: "hivemq", URL: "mqtts://x.hivemq.cloud"}, 0, "username: x.hivemq.cloud needs a username and password, or a cert_file"},
		{mqtt.Config{Preset: "thingsboard", URL: "mqtt://h"}, 0, "username: ThingsBoard needs the device's access token as username, or a cert_file"},
		{mqtt.Config{URL: "mqtt://h", SharedAccessKey: "a2V5"}, 0, "shared_access_key: shared_access_key is for preset: azure-iot-hub"},
		{mqtt.Config{URL: "mqtt://h", TokenLifetime: time.Hour}, 0, "token_lifetime: token_lifetime is for preset: azure-iot-hub"},
		{mqtt.Config{URL: "mqtt://h", Format: "json"}, 0, `format: unknown format "json": cloudevents, event, payload, thingsboard-device, thingsboard-gateway`},
		{mqtt.Config{URL: "mqtt://h", Retain: "always"}, 0, `retain: retain is keep or never, not "always"`},
		{mqtt.Config{URL: "mqtt://h", Rate: -1}, 0, "rate: rate -1 is not from 0 to 100000"},
		{mqtt.Config{URL: "mqtt://h", MaxPacket: 1 << 28}, 0, "max_packet: max_packet 268435456 is not from 0 to 268435455"},
	} {
		_, err := mqtt.New(c.c, "gw", "far", c.lane, bridgetest.Age)
		bridgetest.CheckConfig(t, c.c, err, c.want)
	}
}
