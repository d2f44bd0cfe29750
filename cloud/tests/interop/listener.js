// Echoing listeners: node listener.js URI KEY-NAME KEY [COUNT [SECONDS]]
// COUNT of them in one process, with tokens that are good for SECONDS. Tells what happens as JSON, one object a line.
// A message that begins with "close " is answered with a close frame: "close CODE REASON".
'use strict';

const WebSocket = require('hyco-ws');

const [uri, keyName, key, count, seconds] = process.argv.slice(2);
const tell = (event, more) => console.log(JSON.stringify({ event, ...more }));
const token = () => WebSocket.createRelayToken(uri, keyName, key, seconds && Number(seconds));

for (let n = 0; n < Number(count || 1); n += 1) {
  const server = WebSocket.createRelayedServer({ server: uri, token }, (client) => {
    client.on('open', () => tell('open', { protocol: client.protocol || '', url: application(client.url) }));
    client.on('message', (data, flags) => {
      const [word, code, reason] = Buffer.isBuffer(data) ? [] : data.split(' ');
      if (word === 'close') client.close(Number(code), reason);
      else client.send(data, { binary: Boolean(flags.binary) });
    });
    client.on('close', (code, reason) => tell('close', { code, reason }));
    client.on('error', (error) => tell('client error', { message: String(error) }));
  });
  server.on('listening', () => tell('listening'));
  server.on('error', (error) => tell('error', { message: String(error.message || error) }));
}

// What the application was asked for, as listeners recover it from the address they are sent.
function application(address) {
  const { pathname, search } = new URL(address);
  const query = search.slice(1).split('&').filter((pair) => !/^sb-hc-[^=]*=/i.test(pair)).join('&');
  return pathname.replace('/$hc', '') + (query && `?${query}`);
}
