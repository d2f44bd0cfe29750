// A sender that says something, hears it back and says goodbye: node sender.js URI KEY-NAME KEY [PROTOCOLS]
// Tells what happens as JSON, one object a line.
'use strict';

const WebSocket = require('hyco-ws');

const [uri, keyName, key, protocols] = process.argv.slice(2);
const tell = (event, more) => console.log(JSON.stringify({ event, ...more }));

const token = WebSocket.createRelayToken(uri, keyName, key);
const socket = new WebSocket(uri, protocols ? protocols.split(',') : null, {
  headers: { ServiceBusAuthorization: token },
});
const said = ['grüezi', Buffer.alloc(100000, 7), ''];
let heard = 0;

socket.on('open', () => {
  tell('open', { protocol: socket.protocol || '' });
  said.forEach((message) => socket.send(message, { binary: Buffer.isBuffer(message) }));
});
socket.on('message', (data, flags) => {
  const expected = said[heard++];
  const same = Buffer.isBuffer(expected) ? Boolean(flags.binary) && expected.equals(data) : expected === data;
  tell('message', { bytes: Buffer.byteLength(data), same });
  if (heard === said.length) socket.close(4321, 'that was it');
});
socket.on('close', (code, reason) => tell('close', { code, reason }));
socket.on('error', (error) => tell('error', { message: String(error.message || error) }));
