//! TLS as devices and relays meet it: real handshakes over loopback, and every way they go wrong.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io;
use std::net::Shutdown;
use std::process::Command;
use std::sync::Arc;

use futures_rustls::pki_types::{CertificateDer, pem::PemObject};
use futures_rustls::rustls::{
    CertificateError, CipherSuite, ClientConnection, Error, HandshakeKind, ProtocolVersion, RootCertStore,
    crypto::ring, version,
};
use smol::future::{poll_once, zip};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use support::{Authority, Device, StoppedAt, answer, drain, pair, pattern, run};
use umbilical_link::tls::{
    self, ClientConfig, DefaultTimeProvider, DeviceClock, HandshakeError, Roots, ServerConfig, TlsError,
};
use umbilical_link::transport::{Transport, prepare_socket};

const YEAR_1970: u64 = 86_400;
const YEAR_2081: u64 = 3_502_828_800;

type Side = Result<Transport, HandshakeError>;

async fn handshake(client: &Arc<ClientConfig>, host: &str, server: &Arc<ServerConfig>) -> (Side, Side) {
    let (near, far) = pair().await;
    zip(tls::connect(client, host, near), tls::accept(server, far)).await
}

fn connection(transport: &Transport) -> &ClientConnection {
    match transport {
        Transport::TlsClient(stream) => stream.get_ref().1,
        other => panic!("not a TLS client: {other:?}"),
    }
}

/// Sends from one to the other and compares.
async fn carry(from: &mut Transport, to: &mut Transport) {
    let sent = pattern(1 << 20);
    let mut received = vec![0; sent.len()];
    let write = async {
        from.write_all(&sent).await?;
        from.flush().await
    };
    let (written, read) = zip(write, to.read_exact(&mut received)).await;
    written.unwrap();
    read.unwrap();
    assert!(received == sent, "bytes changed on the way");
}

/// What the client has against the server.
fn complaint(side: Side) -> (CertificateError, String) {
    let error = side.expect_err("the handshake went through");
    match error.rustls() {
        Some(Error::InvalidCertificate(complaint)) => (complaint.clone(), error.to_string()),
        other => panic!("not about the certificate: {other:?}"),
    }
}

#[test]
fn both_versions_carry_bytes_both_ways() {
    run(async {
        let authority = Authority::new();
        let server = authority.server("relay.test");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority.path("ca.pem")).unwrap()).unwrap();
        for (offered, agreed) in
            [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
        {
            let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[offered])
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            let (near, far) = handshake(&Arc::new(client), "relay.test", &server).await;
            let (mut near, mut far) = (near.unwrap(), far.unwrap());
            assert_eq!(connection(&near).protocol_version(), Some(agreed));
            carry(&mut near, &mut far).await;
            carry(&mut far, &mut near).await;
        }
    });
}

/// The same two versions with our client, against servers that can do only one.
#[test]
fn the_client_takes_what_the_server_has() {
    run(async {
        let authority = Authority::new();
        authority.issue("server", "relay.test");
        let client = authority.client();
        for (offered, agreed) in
            [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
        {
            let chain = vec![CertificateDer::from_pem_file(authority.path("server.pem")).unwrap()];
            let key = PemObject::from_pem_file(authority.path("server.key")).unwrap();
            let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[offered])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap();
            let (near, far) = handshake(&client, "relay.test", &Arc::new(server)).await;
            far.unwrap();
            let near = near.unwrap();
            assert_eq!(connection(&near).protocol_version(), Some(agreed));
            assert_eq!(connection(&near).alpn_protocol(), None);
        }
    });
}

#[test]
fn an_address_can_be_certified_too() {
    run(async {
        let authority = Authority::new();
        let (near, far) = handshake(&authority.client(), "127.0.0.1", &authority.server("127.0.0.1")).await;
        near.unwrap();
        far.unwrap();
    });
}

#[test]
fn the_cheapest_cipher_for_this_processor_is_taken() {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let has_aes = std::arch::is_x86_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
    let has_aes = fs::read_to_string("/proc/cpuinfo").unwrap().contains(" aes ") && cfg!(target_pointer_width = "64");
    let expected =
        if has_aes { CipherSuite::TLS13_AES_128_GCM_SHA256 } else { CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 };
    run(async {
        let authority = Authority::new();
        let (near, far) = handshake(&authority.client(), "relay.test", &authority.server("relay.test")).await;
        far.unwrap();
        assert_eq!(connection(&near.unwrap()).negotiated_cipher_suite().unwrap().suite(), expected);
    });
}

#[test]
fn a_second_connection_resumes_the_session() {
    run(async {
        let authority = Authority::new();
        let (client, server) = (authority.client(), authority.server("relay.test"));
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let (near, far) = handshake(&client, "relay.test", &server).await;
            let (mut near, mut far) = (near.unwrap(), far.unwrap());
            assert_eq!(connection(&near).handshake_kind(), Some(expected));
            // Tickets travel behind the handshake: they are in when the first byte is.
            far.write_all(b"!").await.unwrap();
            far.flush().await.unwrap();
            near.read_exact(&mut [0]).await.unwrap();
        }
    });
}

#[test]
fn a_certificate_of_a_stranger_is_refused() {
    run(async {
        let ours = Authority::new();
        // The second is what a roots file from before the authority was made anew leads to.
        let strangers = [
            (Authority::named("stranger"), CertificateError::UnknownIssuer),
            (Authority::new(), CertificateError::BadSignature),
        ];
        for (theirs, expected) in strangers {
            let (near, far) = handshake(&ours.client(), "relay.test", &theirs.server("relay.test")).await;
            let (why, text) = complaint(near);
            assert_eq!(why, expected);
            assert!(text.starts_with("TLS handshake with relay.test failed: "), "{text}");
            assert!(text.ends_with("name a file with the authority that issued it, or dial the right host"), "{text}");
            let text = far.unwrap_err().to_string();
            assert!(text.starts_with("TLS handshake with 127.0.0.1:") && text.contains("its log knows why"), "{text}");
        }
    });
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    run(async {
        let authority = Authority::new();
        let (near, _) = handshake(&authority.client(), "relay.test", &authority.server("other.test")).await;
        let (why, text) = complaint(near);
        assert!(matches!(why, CertificateError::NotValidForNameContext { .. }), "{why:?}");
        assert!(text.contains("other.test") && text.ends_with("dial a name the certificate is for"), "{text}");
    });
}

#[test]
fn the_injected_clock_decides_what_has_expired() {
    run(async {
        let authority = Authority::new();
        let server = authority.server("relay.test");
        let at = |time| tls::client_config(&authority.roots(), Arc::new(StoppedAt(time))).unwrap();

        let (near, _) = handshake(&at(YEAR_2081), "relay.test", &server).await;
        let (why, text) = complaint(near);
        assert!(matches!(why, CertificateError::ExpiredContext { .. }), "{why:?}");
        assert!(text.ends_with("renew the certificate, or set this machine's clock"), "{text}");

        let (near, _) = handshake(&at(YEAR_1970), "relay.test", &server).await;
        let (why, text) = complaint(near);
        assert!(matches!(why, CertificateError::NotValidYetContext { .. }), "{why:?}");
        assert!(text.ends_with("set this machine's clock, which is probably behind"), "{text}");
    });
}

#[test]
fn a_certificate_made_after_a_device_that_has_no_clock_is_judged_as_of_its_first_day() {
    run(async {
        let authority = Authority::new();
        let server = authority.server("relay.test");
        let device = |clock: Arc<dyn DeviceClock>| tls::device_config(&authority.roots(), clock).unwrap();

        let unset = device(Arc::new(Device { time: YEAR_1970, unset: true }));
        let (near, far) = handshake(&unset, "relay.test", &server).await;
        carry(&mut near.unwrap(), &mut far.unwrap()).await;

        let (near, _) = handshake(&unset, "other.test", &server).await;
        let (why, _) = complaint(near);
        assert!(matches!(why, CertificateError::NotValidForNameContext { .. }), "{why:?}");

        let (near, _) = handshake(&unset, "relay.test", &Authority::named("somebody else").server("relay.test")).await;
        let (why, _) = complaint(near);
        assert_eq!(
            why,
            CertificateError::UnknownIssuer,
            "the day of a certificate that nobody vouches for counts for nothing"
        );

        let (near, _) =
            handshake(&device(Arc::new(Device { time: YEAR_2081, unset: true })), "relay.test", &server).await;
        let (why, _) = complaint(near);
        assert!(matches!(why, CertificateError::ExpiredContext { .. }), "{why:?}");

        let (near, _) =
            handshake(&device(Arc::new(Device { time: YEAR_1970, unset: false })), "relay.test", &server).await;
        let (why, _) = complaint(near);
        assert!(
            matches!(why, CertificateError::NotValidYetContext { .. }),
            "a clock that was set is believed: {why:?}"
        );
    });
}

#[test]
fn a_host_that_is_no_name_is_refused_before_a_byte_is_sent() {
    run(async {
        let authority = Authority::new();
        let (near, mut far) = pair().await;
        let error = tls::connect(&authority.client(), "not a name", near).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Name { .. }), "{error:?}");
        assert_eq!(drain(&mut far).await, b"");
    });
}

#[test]
fn a_peer_without_tls_is_named_as_such() {
    run(async {
        let authority = Authority::new();
        let (near, mut far) = pair().await;
        let client = authority.client();
        let (near, ()) =
            zip(tls::connect(&client, "relay.test", near), answer(&mut far, b"HTTP/1.1 400 Bad Request\r\n\r\n")).await;
        let text = near.unwrap_err().to_string();
        assert!(text.ends_with("the peer may not speak TLS on this port"), "{text}");

        let (near, far) = pair().await;
        drop(far);
        let error = tls::connect(&client, "relay.test", near).await.unwrap_err();
        assert!(error.rustls().is_none() && error.to_string().contains("relay.test"), "{error}");
    });
}

#[test]
fn files_that_are_no_good_are_named() {
    let authority = Authority::new();
    authority.issue("one", "relay.test");
    authority.issue("two", "relay.test");
    let path = |name: &str| authority.path(name);
    fs::write(path("empty"), "").unwrap();
    fs::write(path("broken"), "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n").unwrap();
    fs::write(path("cut"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    fs::write(path("zeros"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();

    let server = |certificate: &str, key: &str| tls::server_config(&path(certificate), &path(key)).unwrap_err();
    let client = |roots: &str| {
        tls::client_config(&Roots::File(path(roots)), Arc::new(DefaultTimeProvider)).map(drop).unwrap_err()
    };
    let cases = [
        (server("absent", "one.key"), "absent"),
        (server("one.pem", "absent"), "absent"),
        (server("empty", "one.key"), "empty"),
        (server("one.key", "one.key"), "one.key"),
        (server("one.pem", "one.pem"), "one.pem"),
        (server("broken", "one.key"), "broken"),
        (server("one.pem", "two.key"), "two.key"),
        (client("absent"), "absent"),
        (client("empty"), "empty"),
        (client("cut"), "cut"),
        (client("zeros"), "zeros"),
    ];
    for (error, file) in &cases {
        assert!(error.to_string().contains(path(file).to_str().unwrap()), "{error}");
    }
    let kinds: Vec<_> = cases
        .iter()
        .map(|(error, _)| match error {
            TlsError::Read { .. } => "read",
            TlsError::Pem { .. } => "pem",
            TlsError::NoCertificate { .. } => "no certificate",
            TlsError::NoKey { .. } => "no key",
            TlsError::BadRoot { .. } => "bad root",
            TlsError::Unusable { .. } => "unusable",
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "read",
            "read",
            "no certificate",
            "no certificate",
            "no key",
            "pem",
            "unusable",
            "read",
            "no certificate",
            "pem",
            "bad root"
        ]
    );
}

/// The system's roots are wherever its variables say; a process of its own, because they can't be set in this one.
#[test]
fn the_systems_roots_are_found() {
    const CHILD: &str = "UMBILICAL_TEST_ROOTS";
    if let Ok(expected) = std::env::var(CHILD) {
        let found = tls::client_config(&Roots::System, Arc::new(DefaultTimeProvider));
        match expected.as_str() {
            "some" => drop(found.unwrap()),
            _ => assert!(matches!(found.unwrap_err(), TlsError::NoSystemRoots { source: Some(_) })),
        }
        return;
    }
    let authority = Authority::new();
    for (file, expected) in [("ca.pem", "some"), ("absent.pem", "none")] {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_systems_roots_are_found", "--quiet"])
            .env("SSL_CERT_FILE", authority.path(file))
            .env("SSL_CERT_DIR", authority.path("no-directory"))
            .env(CHILD, expected)
            .status()
            .unwrap();
        assert!(status.success(), "with {file}");
    }
}

/// Without a limit of our own, 64 KiB of records would lie in TLS where nothing can overtake them.
#[test]
fn little_waits_inside_tls_when_the_peer_stops_reading() {
    run(async {
        let authority = Authority::new();
        let (near, far) = pair().await;
        prepare_socket(&near).unwrap();
        let (client, server) = (authority.client(), authority.server("relay.test"));
        let (near, far) = zip(tls::connect(&client, "relay.test", near), tls::accept(&server, far)).await;
        let (mut near, mut far) = (near.unwrap(), far.unwrap());

        let record = pattern(16 * 1024);
        let mut accepted = 0;
        while let Some(count) = poll_once(near.write(&record)).await {
            accepted += count.unwrap();
        }
        assert!(near.has_unsent());
        // What the kernel has is delivered, what TLS still holds is not.
        near.socket().get_ref().shutdown(Shutdown::Write).unwrap();
        let delivered = drain(&mut far).await.len();
        let held = accepted - delivered;
        assert!((1..=64 * 1024 + 16 * 1024).contains(&held), "TLS held {held} bytes");
        let error = far.read(&mut [0]).await;
        assert!(error.is_err() || error.is_ok_and(|count| count == 0), "the end is an end");
    });
}

#[test]
fn closing_is_seen_as_an_end_and_a_cut_is_not() {
    run(async {
        let authority = Authority::new();
        let (client, server) = (authority.client(), authority.server("relay.test"));
        let (near, far) = handshake(&client, "relay.test", &server).await;
        half_closes(near.unwrap(), far.unwrap()).await;
        let (near, far) = handshake(&client, "relay.test", &server).await;
        half_closes(far.unwrap(), near.unwrap()).await;
        let (near, far) = pair().await;
        half_closes(Transport::Plain(near), Transport::Plain(far)).await;

        let (near, far) = handshake(&client, "relay.test", &server).await;
        let (near, mut far) = (near.unwrap(), far.unwrap());
        near.socket().get_ref().shutdown(Shutdown::Write).unwrap();
        let error = far.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    });
}

/// `near` says its last words, `far` sees their end and still answers.
async fn half_closes(mut near: Transport, mut far: Transport) {
    near.write_all(b"last words").await.unwrap();
    near.close().await.unwrap();
    near.close().await.expect("once more does no harm");
    let mut received = Vec::new();
    far.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"last words");
    // The farewell of TLS may come alone; the socket must end too.
    assert_eq!(drain(&mut far.socket()).await, b"");

    far.write_all(b"understood").await.unwrap();
    far.close().await.unwrap();
    received.clear();
    near.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"understood");
}
