//! An identity provider on loopback: makes bearer tokens, and publishes its keys over HTTPS.

// Each test program uses its own part of this.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use data_encoding::BASE64URL_NOPAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use smol::io::AsyncWriteExt;
use smol::{Async, Task};
use umbilical_cloud::http::RequestHead;
use umbilical_cloud::relay::config::{KeyServer, KeySource, TrustedIssuer};
use umbilical_link::dial::{Dialer, Target};
use umbilical_link::proxy::ProxySettings;
use umbilical_link::tls;
use umbilical_relay_protocol::{Issuer, KeySet, RELAY_AUDIENCE};

use super::{certificate, now};

pub(crate) const ISSUER: &str = "https://issuer.example/v2.0";

/// A key of the provider.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    id: String,
}

impl Signer {
    pub(crate) fn new(id: &str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        Self { key, id: id.to_owned() }
    }

    /// The key set that it is alone in.
    pub(crate) fn published(&self) -> String {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (BASE64URL_NOPAD.encode(x), BASE64URL_NOPAD.encode(y));
        format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"{}","x":"{x}","y":"{y}"}}]}}"#, self.id)
    }

    /// A token with these roles, good until `expires`.
    pub(crate) fn token_until(&self, subject: &str, roles: &str, expires: u64) -> String {
        let header = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, self.id);
        let claims = format!(
            r#"{{"iss":"{ISSUER}","aud":"{RELAY_AUDIENCE}","exp":{expires},"nbf":0,"oid":"{subject}","roles":[{roles}]}}"#
        );
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }

    pub(crate) fn token(&self, subject: &str, roles: &str) -> String {
        self.token_until(subject, roles, now() + 3600)
    }
}

/// What a relay is told about the provider.
pub(crate) fn trusted(keys: KeySource) -> TrustedIssuer {
    let issuer =
        Issuer { name: "example".into(), issuer: ISSUER.into(), audience: RELAY_AUDIENCE.into(), grants: Vec::new() };
    TrustedIssuer { issuer, keys }
}

pub(crate) fn fixed(signer: &Signer) -> TrustedIssuer {
    trusted(KeySource::Fixed(Arc::new(KeySet::parse(&signer.published()).unwrap())))
}

/// Serves a key set over HTTPS, and counts how often.
pub(crate) struct Provider {
    pub(crate) source: KeySource,
    pub(crate) asked: Arc<AtomicUsize>,
    /// What follows the status line.
    pub(crate) answer: Arc<Mutex<String>>,
    _serving: Task<()>,
}

impl Provider {
    pub(crate) fn start(answer: &str) -> Self {
        let listener = Async::<TcpListener>::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.get_ref().local_addr().unwrap().port();
        let (asked, answer) = (Arc::<AtomicUsize>::default(), Arc::new(Mutex::new(answer.to_owned())));
        let serving = smol::spawn({
            let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
            async move {
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    let Ok(mut transport) = tls::accept(&certificate().server, socket).await else { continue };
                    let Ok((head, _)) = RequestHead::read(&mut transport).await else { continue };
                    assert_eq!((head.method.as_str(), head.target.as_str()), ("GET", "/keys?p=1"));
                    assert_eq!(head.header("host"), Some(format!("localhost:{port}").as_str()));
                    asked.fetch_add(1, SeqCst);
                    let answer = answer.lock().unwrap().clone();
                    let _ = transport.write_all(answer.as_bytes()).await;
                    let _ = transport.close().await;
                }
            }
        });
        let dialer = Dialer { tls: Arc::clone(&certificate().client), proxy: ProxySettings::direct() };
        let server = KeyServer {
            url: format!("https://localhost:{port}/keys?p=1"),
            target: Target { host: "localhost".into(), port, tls: true },
            path: "/keys?p=1".into(),
            dialer,
        };
        Self { source: KeySource::Server(Arc::new(server)), asked, answer, _serving: serving }
    }

    pub(crate) fn times(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

/// An answer with this body.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
