package main

import (
	"context"
	"log/slog"
	"net"
	"net/netip"

	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/devices/mqttsn"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
	"github.com/weir-iot/weir/gateway/broker"
	"github.com/weir-iot/weir/gateway/config"
)

// newNodes makes the MQTT-SN gateway, whose clients are the broker's.
func newNodes(cfg *config.Config, b *broker.Broker, log *slog.Logger, o gateway.Observer) (*mqttsn.Gateway, error) {
	sn := cfg.Listeners.MQTTSN
	options := mqttsn.Options{
		Connect: func(ctx context.Context, nc net.Conn, account *auth.Account, will func() *gateway.Event) {
			b.ConnectAs(ctx, nc, broker.Proxy{Account: account, Will: will})
		},
		Predefined:        sn.Topics(),
		ID:                sn.GatewayID,
		AdvertiseInterval: sn.Advertise.Interval,
		MaxClients:        sn.MaxClients,
		MaxPacket:         int(sn.MaxPacket),
		RetryInterval:     sn.RetryInterval,
		Retries:           sn.Retries,
		Logger:            log.With("part", "mqtt-sn"),
		Observer:          o,
	}
	if sn.Advertise.Address != "" {
		options.Advertise = netip.MustParseAddrPort(sn.Advertise.Address) // the config was checked
	}
	if len(sn.Clients) == 0 { // then it is on loopback, and there are no users
		anybody, err := cfg.Auth.Anonymous()
		if err != nil {
			return nil, err
		}
		options.Account = func(string) *auth.Account { return anybody }
		options.Connectionless = anybody
		return mqttsn.New(options)
	}
	accounts := map[string]*auth.Account{}
	for id := range sn.Clients {
		account, err := nodeAccount(cfg, id)
		if err != nil {
			return nil, err
		}
		accounts[id] = account
	}
	options.Account = func(id string) *auth.Account { return accounts[id] }
	if who := sn.Connectionless; who != nil {
		account, err := who.Account(cfg.Auth, mqttsn.ConnectionlessID)
		if err != nil {
			return nil, err
		}
		options.Connectionless = account
	}
	return mqttsn.New(options)
}

// nodeAccount is who the config says the MQTT-SN client is; nil if it does not name it.
func nodeAccount(cfg *config.Config, id string) (*auth.Account, error) {
	if cfg.Listeners.MQTTSN == nil {
		return nil, nil
	}
	who, named := cfg.Listeners.MQTTSN.Clients[id]
	if !named {
		return nil, nil
	}
	return who.Account(cfg.Auth, id)
}

// nodeGauges shows at /metrics how the MQTT-SN gateway does.
func (a *app) nodeGauges(m *web.Metrics) {
	of := func(read func(mqttsn.Stats) float64) func() float64 {
		return func() float64 { return read(a.nodes.Stats()) }
	}
	m.Gauge("weir_mqttsn_clients", "MQTT-SN clients that are connected or asleep.", of(func(s mqttsn.Stats) float64 { return float64(s.Clients) }))
	m.Gauge("weir_mqttsn_asleep_clients", "MQTT-SN clients that are asleep.", of(func(s mqttsn.Stats) float64 { return float64(s.Asleep) }))
	m.Counter("weir_mqttsn_lost_clients_total", "MQTT-SN clients that did not say goodbye.", of(func(s mqttsn.Stats) float64 { return float64(s.Lost) }))
	m.Counter("weir_mqttsn_datagrams_total", "Datagrams that came.", of(func(s mqttsn.Stats) float64 { return float64(s.Received) }))
	m.Counter("weir_mqttsn_malformed_datagrams_total", "Datagrams that were no MQTT-SN message.", of(func(s mqttsn.Stats) float64 { return float64(s.Malformed) }))
	m.Counter("weir_mqttsn_limited_datagrams_total", "Datagrams that were not looked at, because too many came.", of(func(s mqttsn.Stats) float64 { return float64(s.Limited) }))
	m.Counter("weir_mqttsn_denied_datagrams_total", "Datagrams of clients that may not connect, or publish without a connection.", of(func(s mqttsn.Stats) float64 { return float64(s.Denied) }))
	m.Counter("weir_mqttsn_repeated_messages_total", "Messages sent again to a client that did not answer.", of(func(s mqttsn.Stats) float64 { return float64(s.Repeated) }))
}
