// An echoing listener: node listener.js URI KEY-NAME KEY
// Tells what happens as JSON, one object a line.
'use strict';

const WebSocket = require('hyco-ws');

const [uri, keyName, key] = process.argv.slice(2);
const tell = (event, more) => console.log(JSON.stringify({ event, ...more }));

const server = WebSocket.createRelayedServer(
  { server: uri, token: () => WebSocket.createRelayToken(uri, keyName, key) },
  (client) => {
    client.on('open', () => tell('open', { protocol: client.protocol || '' }));
    client.on('message', (data, flags) => client.send(data, { binary: Boolean(flags.binary) }));
    client.on('close', (code, reason) => tell('close', { code, reason }));
    client.on('error', (error) => tell('client error', { message: String(error) }));
  },
);
server.on('listening', () => tell('listening'));
server.on('error', (error) => tell('error', { message: String(error.message || error) }));
