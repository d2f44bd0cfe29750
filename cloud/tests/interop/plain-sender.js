// A sender that takes messages for bytes: node plain-sender.js URI KEY-NAME KEY
// Says something in messages of all kinds, counts the bytes that come back, and closes. Tells what happens as JSON, one
// object a line.
'use strict';

const WebSocket = require('hyco-ws');

const [uri, keyName, key] = process.argv.slice(2);
const tell = (event, more) => console.log(JSON.stringify({ event, ...more }));

const token = WebSocket.createRelayToken(uri, keyName, key);
const socket = new WebSocket(uri, null, { headers: { ServiceBusAuthorization: token } });
const said = ['grüezi', Buffer.alloc(1000000, 7), '', Buffer.from('end')];
const expected = Buffer.concat(said.map((message) => Buffer.from(message)));
const heard = [];
let bytes = 0;

socket.on('open', () => {
  tell('open');
  said.forEach((message) => socket.send(message, { binary: Buffer.isBuffer(message) }));
});
socket.on('message', (data, flags) => {
  if (!flags.binary || data.length === 0) tell('odd message', { bytes: data.length });
  heard.push(data);
  bytes += data.length;
  if (bytes >= expected.length) {
    tell('heard', { bytes, same: Buffer.concat(heard).equals(expected) });
    socket.close(1000, 'that was it');
  }
});
socket.on('close', (code, reason) => tell('close', { code, reason }));
socket.on('error', (error) => tell('error', { message: String(error.message || error) }));
