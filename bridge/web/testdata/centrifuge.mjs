// An unmodified centrifuge-js, told what to do by lines on stdin and telling what
// happens by lines of JSON on stdout. Run with the WebSocket address.
import { createInterface } from 'node:readline';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const client = new Centrifuge(process.argv[2], { websocket: WebSocket, minReconnectDelay: 10, maxReconnectDelay: 100 });
client.on('connected', () => say({ connected: true }));
client.on('disconnected', (ctx) => say({ disconnected: ctx.code }));
const sub = client.newSubscription('a/+');
sub.on('publication', (ctx) => say({ value: ctx.data.payload, topic: ctx.data.topic, offset: ctx.offset }));
sub.on('subscribed', (ctx) => say({ subscribed: true, wasRecovering: ctx.wasRecovering, recovered: ctx.recovered, epoch: ctx.streamPosition?.epoch }));
sub.on('unsubscribed', (ctx) => say({ unsubscribed: ctx.code }));
sub.subscribe();
client.connect();

const calls = {
  history: async () => ({ history: (await sub.history({ limit: 3, reverse: true })).publications.map((p) => p.data.payload) }),
  publish: async () => ({ published: await client.publish('b/x', { from: 'js' }) }),
  presence: () => sub.presence(),
  rpc: () => client.rpc('x', {}),
  unsubscribe: async () => sub.unsubscribe(),
};
for await (const line of createInterface({ input: process.stdin })) {
  try {
    const result = await calls[line]();
    if (result) say(result);
  } catch (err) {
    say({ error: err.code });
  }
}
process.exit(0);
