// A sender of HTTP requests, one after the other on one connection: node https-sender.js URI KEY-NAME KEY [HOW]
// HOW: nothing for the token in a header, or "query". Tells what comes back as JSON, one object a line.
'use strict';

const https = require('hyco-https');

const [uri, keyName, key, how] = process.argv.slice(2);
const tell = (event, more) => console.log(JSON.stringify({ event, ...more }));
const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
const token = https.createRelayToken(uri, keyName, key);

function ask(method, path, body, chunked) {
  return new Promise((done, failed) => {
    const headers = {};
    let target = uri + path;
    if (how === 'query') target += `${path.includes('?') ? '&' : '?'}sb-hc-token=${encodeURIComponent(token)}`;
    else headers.ServiceBusAuthorization = token;
    if (body && !chunked) headers['Content-Length'] = body.length;
    const request = https.request(target, { method, headers, agent }, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('error', failed);
      response.on('end', () => {
        const received = Buffer.concat(parts);
        tell('response', {
          method,
          status: response.statusCode,
          bytes: received.length,
          same: body ? body.equals(received) : undefined,
          via: response.headers.via,
          reused: request.reusedSocket,
        });
        done();
      });
    });
    request.on('error', failed);
    if (body && chunked) {
      for (let at = 0; at < body.length; at += 10000) request.write(body.slice(at, at + 10000));
    } else if (body) request.write(body);
    request.end();
  });
}

(async () => {
  const bytes = (length) => Buffer.alloc(length, 'another pattern');
  await ask('GET', '/nothing');
  await ask('POST', '/echo', bytes(1));
  await ask('PUT', '/echo', bytes(65536));
  await ask('POST', '/echo', bytes(200000), true);
  await ask('HEAD', '/bytes?10');
  await ask('DELETE', '/status?204');
  agent.destroy();
})().catch((error) => tell('error', { message: String(error.message || error) }));
