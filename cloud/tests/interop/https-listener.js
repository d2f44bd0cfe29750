// A listener of HTTP requests: node https-listener.js URI KEY-NAME KEY [SECONDS]
// Tells what happens as JSON, one object a line. What it answers depends on the last segment of the path:
//   echo          200, the request's body
//   told          200, method, url and headers as JSON
//   bytes?N       200, N bytes
//   parts         200, in three writes
//   slow          200, 100 KiB; the rest, once /go has been asked for
//   nothing       200, without a body
//   status?N      that status, without a body
//   headers       200, with the headers that are known to be odd
'use strict';

const https = require('hyco-https');
const moment = require('moment');

const [uri, keyName, key, seconds] = process.argv.slice(2);
const tell = (event, more) => console.log(JSON.stringify({ event, ...more }));
const waiting = [];

const server = https.createRelayedServer(
  {
    server: uri,
    token: () => https.createRelayToken(uri, keyName, key, seconds && Number(seconds)),
    keepAliveTimeout: moment.duration(50, 'milliseconds'),
  },
  (req, res) => {
    const parts = [];
    req.on('data', (part) => parts.push(part));
    req.on('end', () => answer(req, Buffer.concat(parts), res));
  },
);
server.on('listening', () => tell('listening'));
server.on('error', (error) => tell('error', { message: String(error.message || error) }));
server.listen();

// The package sends nothing at all, not even a head, for an empty buffer.
function end(res, body) {
  if (body.length > 0) res.end(body);
  else res.end();
}

function answer(req, body, res) {
  const [path, query] = req.url.split('?');
  tell('request', { method: req.method, url: req.url, bytes: body.length });
  switch (path.split('/').pop()) {
    case 'echo':
      res.setHeader('Content-Type', 'application/octet-stream');
      end(res, body);
      break;
    case 'told':
      res.end(JSON.stringify({ method: req.method, url: req.url, headers: req.headers }));
      break;
    case 'bytes':
      end(res, Buffer.alloc(Number(query), 'a pattern of 23 bytes..'));
      break;
    case 'parts':
      res.write('one ');
      res.write('two ');
      res.end('three');
      break;
    case 'slow':
      res.write(Buffer.alloc(100 << 10, 's'));
      waiting.push(res);
      break;
    case 'go':
      waiting.splice(0).forEach((slow) => slow.end('the rest'));
      res.end();
      break;
    case 'nothing':
      res.end();
      break;
    case 'status':
      res.writeHead(Number(query));
      res.end();
      break;
    case 'headers':
      res.setHeader('Set-Cookie', ['a=1', 'b=2']);
      res.setHeader('X-Num', 5);
      res.setHeader('Content-Length', 2);
      res.setHeader('Connection', 'close');
      res.end('headers');
      break;
    default:
      res.writeHead(404, 'No such thing here');
      res.end('no such thing here');
  }
}
