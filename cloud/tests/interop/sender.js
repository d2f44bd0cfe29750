// A sender that says something, hears it back and says goodbye: node sender.js URI KEY-NAME KEY [PROTOCOLS [HOW]]
// HOW: nothing, or one of
//   query      the token goes into the query
//   expired    the token has been for a minute
//   fragments  every message is sent in three fragments
//   large      one binary message of 64 MiB
//   linger     says goodbye at once and tells what still comes
//   close      asks the listener to close with CODE and REASON, the next two arguments
// Tells what happens as JSON, one object a line.
'use strict';

const WebSocket = require('hyco-ws');

const [uri, keyName, key, protocols, how, code, reason] = process.argv.slice(2);
const tell = (event, more) => console.log(JSON.stringify({ event, ...more }));

const token = WebSocket.createRelayToken(uri, keyName, key, how === 'expired' ? -60 : undefined);
const inQuery = how === 'query';
const address = inQuery ? `${uri}&sb-hc-token=${encodeURIComponent(token)}` : uri;
const socket = new WebSocket(address, protocols ? protocols.split(',') : null, {
  headers: inQuery ? {} : { ServiceBusAuthorization: token },
});
const said = how === 'large' ? [Buffer.alloc(64 << 20, 'a pattern of 23 bytes..')] : ['grüezi', Buffer.alloc(100000, 7), ''];
let heard = 0;

socket.on('open', () => {
  tell('open', { protocol: socket.protocol || '' });
  if (how === 'linger') socket.close(1000, 'Shutdown');
  else if (how === 'close') socket.send(`close ${code} ${reason}`);
  else said.forEach(say);
});
socket.on('message', (data, flags) => {
  if (how === 'linger') {
    tell('message', { data: String(data) });
    return;
  }
  const expected = said[heard++];
  const same = Buffer.isBuffer(expected) ? Boolean(flags.binary) && expected.equals(data) : expected === data;
  tell('message', { bytes: Buffer.byteLength(data), same });
  if (heard === said.length) socket.close(4321, 'that was it');
});
socket.on('close', (code, reason) => tell('close', { code, reason }));
socket.on('error', (error) => tell('error', { message: String(error.message || error) }));

function say(message) {
  const binary = Buffer.isBuffer(message);
  if (how !== 'fragments') {
    socket.send(message, { binary });
    return;
  }
  const bytes = Buffer.from(message);
  const cuts = [0, Math.floor(bytes.length / 3), Math.floor(bytes.length / 2), bytes.length];
  let n = 0;
  socket.stream({ binary }, (error, send) => {
    if (error) throw error;
    n += 1;
    send(bytes.slice(cuts[n - 1], cuts[n]), n === 3);
  });
}
