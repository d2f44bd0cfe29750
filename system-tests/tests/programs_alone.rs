//! Promise: the programs on the ends work without the tunnel. Where one of these fails, no other failure says anything about Umbilical.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use umbilical_system_tests::{
    echo,
    fault_proxy::{FaultProxy, Toward, Weather},
    files::{self, Folder},
    process::run,
    programs::{
        azurite::{Azurite, Storage, use_storage},
        iperf3::{self, Direction, Iperf3},
        nginx::{self, Nginx},
        postgresql::Postgresql,
        sshd::{Remote, Sshd},
        tinyproxy::{PASSWORD, Tinyproxy, USER},
    },
    wait,
};

#[test]
fn sshd_runs_a_command_and_takes_a_file() {
    let sshd = Sshd::start();
    let answer = run("ssh", sshd.ssh(sshd.address).arg("echo $((6 * 7))"), wait::SOON);
    assert_eq!(answer, "42");

    let folder = Folder::new();
    let (here, there) = (folder.path("here"), folder.path("there"));
    files::make_random(&here, 100_000);
    run("scp", &mut sshd.scp(sshd.address, &here, &there, Remote::Target), wait::SOON);
    assert_eq!(files::sha256(&there), files::sha256(&here));
    assert_eq!(files::length(&there), 100_000);
}

#[test]
fn nginx_serves_and_wrk_counts() {
    let nginx = Nginx::start(b"a page");
    let pressed = nginx::press(nginx.address, 10, Duration::from_secs(1));
    assert!(pressed.requests > 0 && pressed.errors.is_empty(), "{pressed:?}");
}

#[test]
fn postgresql_transacts() {
    let postgresql = Postgresql::start();
    postgresql.fill(postgresql.address, 1);
    let transacted = postgresql.transact(postgresql.address, 2, &["--transactions=20"]);
    assert_eq!((transacted.processed, transacted.failed), (40, 0));
}

#[test]
fn azurite_stores_what_the_sdks_give_it() {
    let azurite = Azurite::start();
    let folder = Folder::new();
    let file = folder.path("file");
    files::make_random(&file, 1_000_000);
    use_storage(Storage::Blob, azurite.blob, &file);
    use_storage(Storage::Queue, azurite.queue, &file);
    use_storage(Storage::Table, azurite.table, &file);
}

#[test]
fn iperf3_measures_each_way() {
    let iperf3 = Iperf3::start();
    for direction in [Direction::Up, Direction::Down, Direction::Both] {
        let received = iperf3::measure(iperf3.address, direction, 2, Duration::from_secs(1));
        assert!(received.iter().all(|&bytes| bytes > 0), "{direction:?}: {received:?}");
    }
}

#[test]
fn tinyproxy_wants_a_password() {
    let proxy = Tinyproxy::start();
    let nginx = Nginx::start(b"behind the proxy");
    let curl = |credentials: &str| {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--noproxy",
            "",
            "--proxytunnel",
            "--proxy",
            &format!("http://{credentials}@{}", proxy.address),
        ]);
        curl.args(["--write-out", "%{http_connect}", &format!("http://{}/", nginx.address)]);
        curl.output().unwrap()
    };
    assert_eq!(curl(&format!("{USER}:{PASSWORD}")).stdout, b"behind the proxy200");
    let refused = String::from_utf8(curl(&format!("{USER}:wrong")).stdout).unwrap();
    assert!(refused.starts_with('4'), "{refused}");
}

#[test]
fn echoes_are_checked_byte_for_byte() {
    let address = echo::start();
    smol::block_on(echo::exchange(address, 7, 100_000)).unwrap();

    // A service that changes one byte, far into the stream.
    let liar = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let liar_address = liar.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = liar.accept().unwrap();
        let mut bytes = vec![0; 100_000];
        stream.read_exact(&mut bytes).unwrap();
        bytes[70_000] ^= 1;
        stream.write_all(&bytes).unwrap();
    });
    let error = smol::block_on(echo::exchange(liar_address, 7, 100_000)).unwrap_err();
    assert_eq!(error.to_string(), "stream 7, byte 70000: another byte came back");
}

#[test]
fn faults_are_what_they_are_called() {
    let proxy = FaultProxy::start(echo::start());
    smol::block_on(echo::exchange(proxy.address, 7, 1_000_000)).unwrap();
    assert_eq!(proxy.carried(), 2_000_000);
    let connect = || {
        let stream = TcpStream::connect(proxy.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        stream
    };
    let said = |mut stream: &TcpStream| {
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).map(|()| answer)
    };
    let silent = |stream: &TcpStream| said(stream).unwrap_err().kind() == ErrorKind::WouldBlock;

    let stream = connect();
    assert_eq!(&said(&stream).unwrap(), b"hello");
    assert_eq!(proxy.reset(), 1);
    assert_eq!((&stream).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    let resetting = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let std::net::SocketAddr::V4(address) = resetting.local_addr().unwrap() else { unreachable!() };
    let passes_on = FaultProxy::start(address);
    let mut stream = TcpStream::connect(passes_on.address).unwrap();
    stream.set_read_timeout(Some(wait::SOON)).unwrap();
    stream.write_all(b"never read").unwrap();
    let (unread, _) = resetting.accept().unwrap();
    wait::for_some("it to have arrived", wait::SOON, || (unread.peek(&mut [0]).unwrap() == 1).then_some(()));
    drop(unread);
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "a reset is passed on");

    let stream = connect();
    said(&stream).unwrap();
    assert_eq!((proxy.vanish(), proxy.connections()), (1, 0));
    assert!(silent(&stream));
    said(&connect()).expect("others are not touched");

    let stream = connect();
    proxy.set(Weather { stalled: true, ..Weather::default() });
    assert!(silent(&stream));
    proxy.set(Weather::default());
    let mut answer = [0; 5];
    (&stream).read_exact(&mut answer).expect("what was held back arrives");

    proxy.set(Weather { delay: Duration::from_millis(30), ..Weather::default() });
    let began = Instant::now();
    said(&stream).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(60), "{:?}", began.elapsed());
    proxy.set(Weather { bytes_per_second: Some(500_000), ..Weather::default() });
    let began = Instant::now();
    smol::block_on(echo::exchange(proxy.address, 7, 100_000)).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    proxy.set(Weather::default());

    proxy.reset();
    let mut stream = connect();
    said(&stream).unwrap();
    assert_eq!(proxy.half_close(Toward::Dialler), 1);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let before = proxy.carried();
    stream.write_all(b"on and on").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    wait::for_some("the other direction to go on, and to end", wait::SOON, || {
        (proxy.carried() >= before + 9 && proxy.connections() == 0).then_some(())
    });
}
