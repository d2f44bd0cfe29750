//! Dialling: several addresses, deadlines, and a real HTTP proxy (Debian's tinyproxy) with a user and a password.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use smol::future::{self, poll_once, zip};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, Timer};
use socket2::{Domain, SockAddr, Socket, Type};
use support::{Authority, answer, field, listen, read_request, run};
use umbilical_link::dial::{DialError, Dialer, Step, Target};
use umbilical_link::happy_eyeballs;
use umbilical_link::proxy::{Proxy, ProxyError, ProxySettings};
use umbilical_link::response::ResponseError;
use umbilical_link::tls;
use umbilical_link::transport::{NOT_SENT_LOW_WATER_BYTES, Transport};

/// Longer than any test may take: what needs it to pass does not pass.
const NEVER: Duration = Duration::from_secs(3600);

fn target(address: SocketAddr, tls: bool) -> Target {
    Target { host: address.ip().to_string(), port: address.port(), tls }
}

fn dialer(authority: &Authority, proxy: ProxySettings) -> Dialer {
    Dialer { tls: authority.client(), proxy }
}

fn through(proxy: SocketAddr, credentials: &str) -> ProxySettings {
    ProxySettings::always(Proxy::parse(&format!("http://{credentials}{proxy}")).unwrap())
}

/// An address that nobody listens on, for as long as the socket is kept.
fn refusing(ip: impl Into<std::net::IpAddr>) -> (Socket, SocketAddr) {
    let ip = ip.into();
    let socket = Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::from(SocketAddr::new(ip, 0))).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// An address that never answers: its listener's queue is full, so the kernel drops what else comes.
struct BlackHole {
    address: SocketAddr,
    listener: Socket,
    _queued: Async<TcpStream>,
}

impl BlackHole {
    async fn new(ip: impl Into<std::net::IpAddr>) -> Self {
        let (listener, address) = refusing(ip);
        listener.listen(0).unwrap();
        let queued = Async::<TcpStream>::connect(address).await.unwrap();
        Self { address, listener, _queued: queued }
    }

    /// Connections the kernel is still trying to open.
    fn attempts(&self) -> usize {
        const SYN_SENT: &str = "02";
        let port = format!(":{:04X}", self.address.port());
        ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
            .iter()
            .flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
            .filter(|line| {
                let mut columns = line.split_whitespace().skip(2);
                columns.next().is_some_and(|remote| remote.ends_with(&port)) && columns.next() == Some(SYN_SENT)
            })
            .count()
    }
}

async fn accepted(listener: &Async<TcpListener>) -> Async<TcpStream> {
    listener.accept().await.unwrap().0
}

#[test]
fn a_refused_address_hands_over_at_once() {
    run(async {
        let (listener, good) = listen();
        let (_held, refused) = refusing(Ipv6Addr::LOCALHOST);
        let socket = happy_eyeballs::connect(&[refused, good], NEVER).await.unwrap();
        assert_eq!(socket.get_ref().peer_addr().unwrap(), good);
        drop(listener);
    });
}

#[test]
fn a_silent_address_is_overtaken_and_abandoned() {
    run(async {
        for ip in [Ipv6Addr::LOCALHOST.into(), std::net::IpAddr::from(Ipv4Addr::LOCALHOST)] {
            let hole = BlackHole::new(ip).await;
            let (_listener, good) = listen();
            let addresses = [hole.address, good];
            let mut connecting = Box::pin(happy_eyeballs::connect(&addresses, NEVER));
            assert!(poll_once(&mut connecting).await.is_none());
            assert_eq!(hole.attempts(), 1, "the silent address is tried first, and alone");
            drop(connecting);
            assert_eq!(hole.attempts(), 0);

            let socket = happy_eyeballs::connect(&addresses, Duration::from_millis(1)).await.unwrap();
            assert_eq!(socket.get_ref().peer_addr().unwrap(), good);
            assert_eq!(hole.attempts(), 0, "the loser is gone");
        }
    });
}

#[test]
fn a_failure_does_not_end_the_race() {
    run(async {
        let hole = BlackHole::new(Ipv4Addr::LOCALHOST).await;
        let (_held, refused) = refusing(Ipv6Addr::LOCALHOST);
        let addresses = [refused, hole.address];
        let make_room = async {
            while hole.attempts() == 0 {
                future::yield_now().await;
            }
            hole.listener.accept().unwrap()
        };
        // The kernel asks again after a second, and now there is room.
        let (socket, _) = zip(happy_eyeballs::connect(&addresses, NEVER), make_room).await;
        assert_eq!(socket.unwrap().get_ref().peer_addr().unwrap(), hole.address);
    });
}

#[test]
fn all_failures_are_reported() {
    run(async {
        let (_one, first) = refusing(Ipv4Addr::LOCALHOST);
        let (_two, second) = refusing(Ipv6Addr::LOCALHOST);
        let failed = happy_eyeballs::connect(&[first, second], NEVER).await.unwrap_err();
        let kinds: Vec<_> = failed.iter().map(|(address, error)| (*address, error.kind())).collect();
        assert_eq!(kinds, [first, second].map(|address| (address, io::ErrorKind::ConnectionRefused)));
        assert!(happy_eyeballs::connect(&[], NEVER).await.unwrap_err().is_empty());
    });
}

#[test]
fn families_take_turns_and_nothing_is_tried_twice() {
    let v4 = |n| SocketAddr::from(([127, 0, 0, n], 1));
    let v6 = |n| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, n], 1));
    let order = happy_eyeballs::interleave;
    assert_eq!(order(&[v6(1), v6(2), v6(3), v4(1), v4(2)]), [v6(1), v4(1), v6(2), v4(2), v6(3)]);
    assert_eq!(order(&[v4(1), v6(1), v6(2), v6(3)]), [v4(1), v6(1), v6(2), v6(3)]);
    assert_eq!(order(&[v4(1), v4(1), v4(2), v6(1), v4(1)]), [v4(1), v6(1), v4(2)]);
    assert_eq!(order(&[v4(2), v4(1)]), [v4(2), v4(1)]);
    assert_eq!(order(&[]), []);
}

#[test]
fn a_long_list_of_addresses_opens_few_sockets() {
    run(async {
        let failed = happy_eyeballs::connect(
            &(1..100).map(|n| SocketAddr::from(([127, 0, 1, n], 1))).collect::<Vec<_>>(),
            NEVER,
        )
        .await
        .unwrap_err();
        assert_eq!(failed.len(), happy_eyeballs::MAX_ATTEMPTS);
    });
}

#[test]
fn a_dialled_socket_is_tuned() {
    run(async {
        let authority = Authority::new();
        let (listener, address) = listen();
        let transport = dialer(&authority, ProxySettings::direct()).dial(&target(address, false)).await.unwrap();
        assert!(matches!(transport, Transport::Plain(_)));
        let socket = socket2::SockRef::from(transport.socket());
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOT_SENT_LOW_WATER_BYTES);
        assert_eq!(transport.peer_address().unwrap(), address);
        // Loopback's 64 KiB frames less the headers; what an Ethernet has is a matter of the kernel's, not of ours.
        let segment = transport.segment_size().unwrap();
        assert!((1000..=65_535).contains(&segment), "{segment}");
        drop(listener);
    });
}

#[test]
fn a_name_is_resolved_and_checked() {
    run(async {
        let authority = Authority::new();
        let server = authority.server("localhost");
        let (listener, address) = listen();
        let target = Target { host: "localhost".into(), port: address.port(), tls: true };
        let serve = async { tls::accept(&server, accepted(&listener).await).await.unwrap() };
        let (near, _far) = zip(dialer(&authority, ProxySettings::direct()).dial(&target), serve).await;
        assert!(matches!(near.unwrap(), Transport::TlsClient(_)));
    });
}

#[test]
fn what_fails_says_where() {
    run(async {
        let authority = Authority::new();
        let direct = dialer(&authority, ProxySettings::direct());

        let (_held, refused) = refusing(Ipv6Addr::LOCALHOST);
        let text = direct.dial(&target(refused, true)).await.unwrap_err().to_string();
        assert_eq!(
            text,
            format!(
                "cannot connect to {refused}: {refused}: Connection refused (os error 111); check that it is running and \
                 that no firewall is in the way"
            )
        );

        // Longer than any name may be, so that no resolver is asked.
        let host = "x".repeat(300);
        let error = direct.dial(&Target { host: host.clone(), port: 1, tls: true }).await.unwrap_err();
        assert!(matches!(&error, DialError::Resolve { host: named, .. } if *named == host), "{error:?}");
        assert!(error.to_string().ends_with("check the name and this machine's DNS servers"), "{error}");
    });
}

#[test]
fn the_deadline_names_the_step() {
    const SHORT: Duration = Duration::from_millis(50);
    run(async {
        let authority = Authority::new();
        let step = |outcome: Result<Transport, DialError>| match outcome.unwrap_err() {
            DialError::TimedOut { step, after: SHORT, .. } => step,
            other => panic!("{other}"),
        };
        let hole = BlackHole::new(Ipv4Addr::LOCALHOST).await;
        let (_silent, silent) = listen();
        let direct = dialer(&authority, ProxySettings::direct());
        let proxied = dialer(&authority, through(silent, ""));
        assert_eq!(step(direct.dial_within(&target(hole.address, true), SHORT).await), Step::Connect);
        assert_eq!(step(direct.dial_within(&target(silent, true), SHORT).await), Step::Tls);
        assert_eq!(step(proxied.dial_within(&target(silent, true), SHORT).await), Step::Proxy);

        let text = direct.dial_within(&target(silent, true), SHORT).await.unwrap_err().to_string();
        assert_eq!(
            text,
            format!("{silent} was not reached in 50ms, still in the TLS handshake; check that the port speaks TLS")
        );
    });
}

/// Debian's tinyproxy with one account.
struct Tinyproxy {
    process: Child,
    address: SocketAddr,
}

impl Tinyproxy {
    const USER: &str = "device";
    const PASSWORD: &str = "s3cret.word";

    /// Lets tunnels through to `allowed` only.
    async fn start(directory: &Path, allowed: u16) -> Self {
        loop {
            let (socket, address) = refusing(Ipv4Addr::LOCALHOST);
            let config = directory.join("tinyproxy.conf");
            let text = format!(
                "Port {}\nListen 127.0.0.1\nTimeout 30\nBasicAuth {} {}\nConnectPort {allowed}\n",
                address.port(),
                Self::USER,
                Self::PASSWORD
            );
            fs::write(&config, text).unwrap();
            drop(socket);
            let mut process = Command::new("tinyproxy")
                .arg("-d")
                .arg("-c")
                .arg(&config)
                .stdout(Stdio::null())
                .spawn()
                .expect("these tests need tinyproxy: apt-get install tinyproxy-bin");
            let started = Instant::now();
            // It can't choose a port itself, so somebody else may have taken this one: then it ends, and we try again.
            while process.try_wait().unwrap().is_none() {
                if Async::<TcpStream>::connect(address).await.is_ok() {
                    return Self { process, address };
                }
                assert!(started.elapsed() < Duration::from_secs(20), "tinyproxy does not answer");
                Timer::after(Duration::from_millis(5)).await;
            }
        }
    }
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn tinyproxy_lets_the_right_account_through() {
    run(async {
        let authority = Authority::new();
        let server = authority.server("relay.test");
        let (listener, address) = listen();
        let proxy = Tinyproxy::start(&authority.path(""), address.port()).await;
        // The proxy resolves names, we don't: `localhost` is what it can find, the certificate is for another name.
        let by_name = Target { host: "localhost".into(), port: address.port(), tls: false };

        let credentials = format!("{}:s3cret%2Eword@", Tinyproxy::USER);
        let dialer = dialer(&authority, through(proxy.address, &credentials));
        let serve = async {
            let mut far = accepted(&listener).await;
            let mut received = [0; 4];
            far.read_exact(&mut received).await.unwrap();
            far.write_all(&received).await.unwrap();
        };
        let dial = async {
            let mut near = dialer.dial(&by_name).await.unwrap();
            assert_eq!(near.peer_address().unwrap(), proxy.address);
            near.write_all(b"ping").await.unwrap();
            let mut received = [0; 4];
            near.read_exact(&mut received).await.unwrap();
            assert_eq!(&received, b"ping");
        };
        zip(serve, dial).await;

        // The handshake inside the tunnel is with the target.
        let inside = Target { tls: true, ..by_name.clone() };
        let serve = async { tls::accept(&server, accepted(&listener).await).await };
        let (near, _) = zip(dialer.dial(&inside), serve).await;
        let text = near.unwrap_err().to_string();
        assert!(
            text.starts_with(&format!(
                "through proxy http://device:***@{}: TLS handshake with localhost failed",
                proxy.address
            )),
            "{text}"
        );
        let server = authority.server("localhost");
        let serve = async { tls::accept(&server, accepted(&listener).await).await };
        let (near, far) = zip(dialer.dial(&inside), serve).await;
        far.unwrap();
        assert!(matches!(near.unwrap(), Transport::TlsClient(_)));
    });
}

#[test]
fn tinyproxy_refuses_with_a_reason_we_pass_on() {
    run(async {
        let authority = Authority::new();
        let (listener, address) = listen();
        let proxy = Tinyproxy::start(&authority.path(""), address.port()).await;
        let dial = |credentials: &str, port: u16| {
            let dialer = dialer(&authority, through(proxy.address, credentials));
            let target = Target { host: "127.0.0.1".into(), port, tls: true };
            async move { dialer.dial(&target).await.unwrap_err().to_string() }
        };
        let to = format!("127.0.0.1:{}", address.port());
        assert_eq!(
            dial("", address.port()).await,
            format!(
                "no way through proxy http://{} to {to}: it wants a user and a password (407); put them in the proxy's URL: \
                 http://USER:PASSWORD@HOST:PORT",
                proxy.address
            )
        );
        let text = dial("device:wrong@", address.port()).await;
        assert!(
            text.starts_with(&format!("no way through proxy http://device:***@{} to {to}: it refuses", proxy.address)),
            "{text}"
        );
        assert!(!text.contains("wrong"), "{text}");
        // A port that is not allowed, and one where nobody listens.
        let good = format!("{}:{}@", Tinyproxy::USER, Tinyproxy::PASSWORD);
        let text = dial(&good, 1).await;
        assert!(text.contains("it refuses the tunnel with status 403: "), "{text}");
        drop(listener);
        let text = dial(&good, address.port()).await;
        assert!(text.contains("it refuses the tunnel with status 5"), "{text}");
    });
}

/// Answers of proxies that tinyproxy does not give.
#[test]
fn odd_proxies_are_seen_through() {
    run(async {
        let authority = Authority::new();
        let (listener, address) = listen();
        let dialer = dialer(&authority, through(address, "d%C3%BCse:p%40ss%3Aw%25@"));
        let to = Target { host: "fd00::1".into(), port: 443, tls: true };
        let outcome = |response: String| {
            let (dialer, to, listener) = (&dialer, &to, &listener);
            async move {
                let serve = async {
                    let mut far = accepted(listener).await;
                    let head = read_request(&mut far).await;
                    assert!(head.starts_with("CONNECT [fd00::1]:443 HTTP/1.1\r\n"), "{head}");
                    assert_eq!(field(&head, "Host"), Some("[fd00::1]:443"));
                    let expected = data_encoding::BASE64.encode("düse:p@ss:w%".as_bytes());
                    assert_eq!(field(&head, "Proxy-Authorization"), Some(format!("Basic {expected}").as_str()));
                    answer(&mut far, response.as_bytes()).await;
                    far
                };
                match zip(dialer.dial(to), serve).await.0.unwrap_err() {
                    DialError::Proxy { source, .. } => source,
                    other => panic!("{other}"),
                }
            }
        };
        let ntlm = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n";
        let text = outcome(ntlm.into()).await.to_string();
        assert_eq!(text, "it wants authentication by \"Negotiate, NTLM\", only Basic is supported (407)");
        let early = outcome("HTTP/1.0 200 OK\r\n\r\nwelcome".into()).await;
        assert!(matches!(early, ProxyError::TalksFirst), "{early:?}");
        let long = outcome(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(8 * 1024))).await;
        assert!(matches!(long, ProxyError::Response(ResponseError::TooLarge { limit: 8192 })), "{long:?}");
        let socks = outcome("\x05\x7f".into()).await;
        assert!(matches!(socks, ProxyError::Response(ResponseError::NotHttp { .. })), "{socks:?}");
        let gone = outcome(String::new()).await;
        assert!(matches!(gone, ProxyError::Response(ResponseError::Closed { after: 0 })), "{gone:?}");
    });
}

#[test]
fn giving_up_closes_the_connection() {
    run(async {
        let authority = Authority::new();
        let (listener, address) = listen();
        let dialer = dialer(&authority, ProxySettings::direct());
        let to = target(address, true);
        let mut dial = Box::pin(dialer.dial(&to));
        let mut far = future::or(async { accepted(&listener).await }, async {
            let _ = (&mut dial).await;
            panic!("nobody has answered");
        })
        .await;
        drop(dial);
        support::drain(&mut far).await;
    });
}
