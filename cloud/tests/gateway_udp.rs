//! Promise: a public UDP port leads to a device's UDP service: datagrams whole or not at all, each client by a stream of its
//! own, no more clients than may be, and nothing left of one that has gone silent.

#![allow(clippy::unwrap_used)]

mod world;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use smol::{Async, Timer, future};
use umbilical_cloud::gateway::ExposureStatus;
use umbilical_cloud::supervisor::Cloud;
use umbilical_mux::MAX_DATAGRAM;
use world::{
    Client, Cuttable, Folder, RELAY, agent, echo, eventually, executor, expose, exposure_of, linked, must_reset,
    relay_of, run,
};

/// A UDP service that sends back what it gets.
fn udp_echo() -> SocketAddr {
    counted_echo((Ipv4Addr::LOCALHOST, 0).into()).0
}

/// The same, and whom it has heard of.
fn counted_echo(address: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<SocketAddr>>>) {
    let socket = Async::<UdpSocket>::bind(address).unwrap();
    let address = socket.get_ref().local_addr().unwrap();
    let peers = Arc::<Mutex<Vec<SocketAddr>>>::default();
    let heard = Arc::clone(&peers);
    let serve = async move {
        let mut buffer = vec![0; 65_536];
        // an answer to somebody who has left is an error of the next call
        loop {
            let Ok((count, peer)) = socket.recv_from(&mut buffer).await else { continue };
            {
                let mut peers = heard.lock().unwrap();
                if !peers.contains(&peer) {
                    peers.push(peer);
                }
            }
            let _ = socket.send_to(&buffer[..count], peer).await;
        }
    };
    executor().spawn(serve).detach();
    (address, peers)
}

fn expose_udp(device: &str, service: &str) -> String {
    expose(device, service).replace("\"127.0.0.1:0\"", "\"udp:127.0.0.1:0\"")
}

/// The configuration of an agent with one UDP service.
fn udp_agent(name: &str, relay: SocketAddr, service: &str, target: SocketAddr) -> String {
    agent(name, relay, &[(service, target)]).replace("target = \"tcp:", "target = \"udp:")
}

/// A client of a UDP port.
struct Mail(Async<UdpSocket>);

impl Mail {
    fn to(address: SocketAddr) -> Self {
        Self::from(address, (Ipv4Addr::LOCALHOST, 0).into())
    }

    fn from(address: SocketAddr, own: SocketAddr) -> Self {
        let socket = UdpSocket::bind(own).unwrap();
        socket.connect(address).unwrap();
        Self(Async::new(socket).unwrap())
    }

    fn send(&self, datagram: &[u8]) {
        self.0.get_ref().send(datagram).unwrap();
    }

    async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let count = self.0.recv(&mut buffer).await.unwrap();
        buffer.truncate(count);
        buffer
    }

    async fn round_trip(&self, datagram: &[u8]) {
        self.send(datagram);
        let back = self.receive().await;
        assert!(back == datagram, "{} bytes came back as {}", datagram.len(), back.len());
    }

    /// Sends until there is an answer: what is sent while a stream cannot be had is lost.
    async fn answered(&self, datagram: &[u8]) {
        eventually("an answer", || async {
            self.send(datagram);
            let answer = async { Some(self.receive().await) };
            let late = async {
                Timer::after(Duration::from_millis(100)).await;
                None
            };
            future::or(answer, late).await.filter(|answer| answer == datagram)
        })
        .await;
    }
}

fn status(cloud: &Cloud, number: usize) -> ExposureStatus {
    cloud.gateway().unwrap().exposures().remove(number)
}

async fn open_clients(cloud: &Cloud, number: usize, count: usize) {
    eventually(&format!("{count} clients"), || async { (status(cloud, number).open == count).then_some(()) }).await;
}

/// One exposure of one service, with `lines` more on both sides.
struct Set {
    cloud: Cloud,
    address: SocketAddr,
    _device: world::Device,
    _folder: Folder,
}

impl Set {
    async fn new(target: SocketAddr, exposure_lines: &str, service_lines: &str) -> Self {
        let folder = Folder::new();
        let cloud = folder.start(&format!("{RELAY}[gateway]\n{}{exposure_lines}", expose_udp("d1", "echo")));
        let device = udp_agent("d1", relay_of(&cloud), "echo", target) + service_lines;
        let device = folder.start_device("d1", &device);
        linked(&cloud, "d1").await;
        let address = exposure_of(&cloud, 0);
        Self { cloud, address, _device: device, _folder: folder }
    }
}

#[test]
fn datagrams_of_every_length_come_back_whole() {
    run(async {
        let set = Set::new(udp_echo(), "", "").await;
        let client = Mail::to(set.address);
        for length in [0, 1, 2, 512, 1_472, 9_000, MAX_DATAGRAM - 1, MAX_DATAGRAM] {
            client.round_trip(&world::pattern(length)).await;
        }
        // the bytes of what came and went are counted when the client is none any more
        assert_eq!((status(&set.cloud, 0).open, status(&set.cloud, 0).dropped), (1, 0));
    });
}

#[test]
fn the_first_datagram_is_not_lost_whatever_the_target_is_called() {
    run(async {
        let (target, _) = counted_echo((Ipv4Addr::LOCALHOST, 0).into());
        for host in [format!("127.0.0.1:{}", target.port()), format!("localhost:{}", target.port())] {
            let folder = Folder::new();
            let cloud = folder.start(&format!("{RELAY}[gateway]\n{}", expose_udp("d1", "echo")));
            let device = agent("d1", relay_of(&cloud), &[]) + &format!("[services.echo]\ntarget = \"udp:{host}\"\n");
            let _device = folder.start_device("d1", &device);
            linked(&cloud, "d1").await;
            for _ in 0..3 {
                Mail::to(exposure_of(&cloud, 0)).round_trip(b"once").await;
            }
        }
    });
}

#[test]
fn ipv6_goes_all_the_way() {
    run(async {
        let (target, _) = counted_echo((Ipv6Addr::LOCALHOST, 0).into());
        let folder = Folder::new();
        let text = expose_udp("d1", "echo").replace("127.0.0.1:0", "[::]:0");
        let cloud = folder.start(&format!("{RELAY}[gateway]\n{text}allow = ['127.0.0.1', '::1']\n"));
        let _device = folder.start_device("d1", &udp_agent("d1", relay_of(&cloud), "echo", target));
        linked(&cloud, "d1").await;
        let port = exposure_of(&cloud, 0).port();
        Mail::from((Ipv6Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, 0).into()).round_trip(b"six").await;
        // both kinds by one port, and the answer from the address that was asked: another is not heard
        Mail::to((Ipv4Addr::LOCALHOST, port).into()).round_trip(b"four").await;
        Mail::to(([127, 0, 0, 77], port).into()).round_trip(b"four").await;
        assert_eq!(status(&cloud, 0).turned_away, 0);
    });
}

#[test]
fn each_client_has_a_socket_of_its_own_at_the_service() {
    run(async {
        let (target, peers) = counted_echo((Ipv4Addr::LOCALHOST, 0).into());
        let set = Set::new(target, "", "").await;
        let clients: Vec<_> = (0..10).map(|_| Mail::to(set.address)).collect();
        for round in 0..3_u8 {
            for (number, client) in (0..).zip(&clients) {
                client.round_trip(&[round, number]).await;
            }
        }
        assert_eq!(peers.lock().unwrap().len(), 10);
        assert_eq!((status(&set.cloud, 0).open, status(&set.cloud, 0).accepted), (10, 10));
    });
}

#[test]
fn what_is_too_long_is_dropped_counted_and_harms_nobody() {
    run(async {
        let set = Set::new(udp_echo(), "", "").await;
        let client = Mail::to(set.address);
        client.send(&vec![1; MAX_DATAGRAM + 1]);
        client.round_trip(b"one").await;
        client.send(&vec![1; 65_507]);
        client.round_trip(b"two").await;
        assert_eq!((status(&set.cloud, 0).dropped, status(&set.cloud, 0).open), (2, 1));
    });
}

#[test]
fn a_silent_client_is_forgotten_on_both_sides_and_welcome_again() {
    run(async {
        for (exposure, service) in [("idle-timeout = '1s'\n", ""), ("", "idle-timeout = '1s'\n")] {
            let (target, peers) = counted_echo((Ipv4Addr::LOCALHOST, 0).into());
            let set = Set::new(target, exposure, service).await;
            let client = Mail::to(set.address);
            client.round_trip(b"before").await;
            let since = Instant::now();
            open_clients(&set.cloud, 0, 0).await;
            assert!(since.elapsed() > Duration::from_millis(900), "after {:?}", since.elapsed());
            let devices = set.cloud.gateway().unwrap().devices().await;
            assert_eq!(devices[0].streams, 0);
            client.round_trip(b"after").await;
            assert_eq!(peers.lock().unwrap().len(), 2);
            let status = status(&set.cloud, 0);
            assert_eq!((status.accepted, status.failed, status.bytes_out, status.bytes_in), (2, 0, 6, 6));
        }
    });
}

#[test]
fn who_says_something_in_time_is_not_forgotten() {
    run(async {
        let (target, peers) = counted_echo((Ipv4Addr::LOCALHOST, 0).into());
        let set = Set::new(target, "idle-timeout = '1s'\n", "idle-timeout = '1s'\n").await;
        let client = Mail::to(set.address);
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(2_500) {
            client.round_trip(b"still here").await;
            Timer::after(Duration::from_millis(300)).await;
        }
        assert_eq!(peers.lock().unwrap().len(), 1);
        assert_eq!(status(&set.cloud, 0).accepted, 1);
    });
}

#[test]
fn only_those_who_may_send_are_heard() {
    run(async {
        let (target, peers) = counted_echo((Ipv4Addr::LOCALHOST, 0).into());
        let set = Set::new(target, "allow = ['10.0.0.0/8', '127.0.0.2']\n", "").await;
        let stranger = Mail::to(set.address);
        stranger.send(b"let me in");
        Mail::from(set.address, ([127, 0, 0, 2], 0).into()).round_trip(b"I may").await;
        eventually("the stranger", || async { (status(&set.cloud, 0).turned_away == 1).then_some(()) }).await;
        assert_eq!(peers.lock().unwrap().len(), 1);
        let silence = stranger.0.get_ref().recv(&mut [0; 16]).unwrap_err();
        assert_eq!(silence.kind(), ErrorKind::WouldBlock, "not even a refusal");
    });
}

/// A flood comes from addresses that nobody has: no more streams are open than may be, whoever is in conversation stays in
/// it, and when the flood is over the port is everybody's again.
#[test]
fn a_flood_opens_no_more_streams_than_may_be() {
    run(async {
        let set = Set::new(udp_echo(), "max-connections = 8\n", "").await;
        let before = Mail::to(set.address);
        before.round_trip(b"before").await;
        let flood = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let since = Instant::now();
        let mut sources = 0_u64;
        while since.elapsed() < Duration::from_secs(3) {
            for _ in 0..200 {
                // as many addresses as there are on loopback
                let address = [127, 1, fastrand::u8(..), fastrand::u8(1..)];
                let Ok(forged) = UdpSocket::bind((Ipv4Addr::from(address), 0)) else { continue };
                forged.send_to(b"flood", set.address).unwrap();
                sources += 1;
            }
            let open = status(&set.cloud, 0).open;
            assert!(open <= 16, "{open} streams are open");
            before.round_trip(b"still here").await;
        }
        drop(flood);
        let status = status(&set.cloud, 0);
        assert!(sources > 1_000, "no flood: {sources}");
        // the first seven, and as many again each quarter of a second
        let most = 1 + 7 * (since.elapsed().as_millis() / 250 + 1);
        assert!(u128::from(status.accepted - status.turned_away) <= most, "{status:?}, expected {most} at most");
        Mail::to(set.address).answered(b"after").await;
    });
}

/// More clients than may be, each of which asks once, as resolvers do.
async fn ask_once_each(set: &Set, answered: bool) -> Duration {
    let since = Instant::now();
    for number in 0..4_u8 {
        let client = Mail::to(set.address);
        client.send(&[number]);
        if answered {
            client.receive().await;
        }
    }
    open_clients(&set.cloud, 0, 4).await;
    let turned_away = || async {
        Mail::to(set.address).send(b"one too many");
        (status(&set.cloud, 0).turned_away > 0).then_some(())
    };
    eventually("a client turned away", turned_away).await;
    eventually("another client", || async {
        Mail::to(set.address).send(b"in time");
        (status(&set.cloud, 0).accepted - status(&set.cloud, 0).turned_away > 4).then_some(())
    })
    .await;
    since.elapsed()
}

#[test]
fn whoever_was_answered_makes_room_before_whoever_still_waits() {
    run(async {
        let set = Set::new(udp_echo(), "max-connections = 4\n", "").await;
        let answered = ask_once_each(&set, true).await;
        assert!((Duration::from_millis(250)..Duration::from_millis(1_500)).contains(&answered), "after {answered:?}");
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let set = Set::new(silent.local_addr().unwrap(), "max-connections = 4\n", "").await;
        let waiting = ask_once_each(&set, false).await;
        assert!(waiting >= Duration::from_secs(2), "after {waiting:?}");
    });
}

#[test]
fn a_service_that_is_not_there_costs_its_clients_their_datagrams_and_nothing_else() {
    run(async {
        // a port that was there a moment ago
        let target = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let set = Set::new(target, "", "").await;
        let client = Mail::to(set.address);
        client.send(b"anybody?");
        eventually("the refusal", || async { (status(&set.cloud, 0).failed == 1).then_some(()) }).await;
        open_clients(&set.cloud, 0, 0).await;
        // while it rests nothing is asked of the device
        client.send(b"anybody?");
        eventually("a dropped datagram", || async { (status(&set.cloud, 0).dropped >= 1).then_some(()) }).await;
        let (_, _peers) = counted_echo(target);
        client.answered(b"there you are").await;
    });
}

#[test]
fn an_absent_device_costs_its_clients_their_datagrams_and_is_found_when_it_comes() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&format!("{RELAY}[gateway]\n{}", expose_udp("d1", "echo")));
        let client = Mail::to(exposure_of(&cloud, 0));
        for _ in 0..100 {
            client.send(b"anybody?");
        }
        eventually("the failure", || async { (status(&cloud, 0).failed == 1).then_some(()) }).await;
        open_clients(&cloud, 0, 0).await;
        let _device = folder.start_device("d1", &udp_agent("d1", relay_of(&cloud), "echo", udp_echo()));
        client.answered(b"there you are").await;
        // a flood of datagrams is no flood of attempts
        assert!(status(&cloud, 0).failed < 20, "{:?}", status(&cloud, 0));
    });
}

#[test]
fn a_device_takes_no_more_streams_than_its_service_allows() {
    run(async {
        let (target, peers) = counted_echo((Ipv4Addr::LOCALHOST, 0).into());
        let set = Set::new(target, "", "max-streams = 2\n").await;
        let (one, two, three) = (Mail::to(set.address), Mail::to(set.address), Mail::to(set.address));
        one.round_trip(b"1").await;
        two.round_trip(b"2").await;
        three.send(b"3");
        eventually("the refusal", || async { (status(&set.cloud, 0).failed == 1).then_some(()) }).await;
        one.round_trip(b"still here").await;
        two.round_trip(b"still here").await;
        assert_eq!(peers.lock().unwrap().len(), 2);
    });
}

#[test]
fn the_wrong_kind_of_exposure_is_refused_either_way() {
    run(async {
        let folder = Folder::new();
        let text = format!("{RELAY}[gateway]\n{}{}", expose("d1", "mail"), expose_udp("d1", "echo"));
        let cloud = folder.start(&text);
        let mail = format!("[services.mail]\ntarget = \"udp:{}\"\n", udp_echo());
        let device = agent("d1", relay_of(&cloud), &[("echo", echo())]) + &mail;
        let _device = folder.start_device("d1", &device);
        linked(&cloud, "d1").await;
        must_reset(exposure_of(&cloud, 0)).await;
        Mail::to(exposure_of(&cloud, 1)).send(b"anybody?");
        eventually("both refusals", || async { (0..2).all(|number| status(&cloud, number).failed == 1).then_some(()) })
            .await;
    });
}

#[test]
fn datagrams_of_before_a_cut_are_resent_once_and_those_during_it_wait_or_are_dropped() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&format!("{RELAY}[gateway]\n{}", expose_udp("d1", "echo")));
        let way = Cuttable::new(relay_of(&cloud));
        let _device = folder.start_device("d1", &udp_agent("d1", way.address, "echo", udp_echo()));
        linked(&cloud, "d1").await;
        let client = Mail::to(exposure_of(&cloud, 0));
        client.round_trip(b"before").await;
        let mut seen = vec![0_u8; 3_000];
        // the number of an answer that comes within a while
        let answer = async || {
            let answer = async { Some(client.receive().await) };
            let late = async {
                Timer::after(Duration::from_millis(2)).await;
                None
            };
            let datagram = future::or(answer, late).await?;
            Some(usize::from(u16::from_be_bytes([datagram[0], datagram[1]])))
        };
        for number in 0..3_000_u16 {
            client.send(&number.to_be_bytes());
            if number % 1_000 == 500 {
                assert!(way.cut() > 0, "nothing to cut");
            }
            // as fast as they are answered, but for those around a cut
            if let Some(number) = answer().await {
                seen[number] += 1;
            }
        }
        // the link is back, and all that waited for it has come, when a last one does
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < end, "the link is not back");
            client.send(&u16::MAX.to_be_bytes());
            match answer().await.map(|number| seen.get_mut(number)) {
                Some(Some(times)) => *times += 1,
                Some(None) => break,
                None => {}
            }
        }
        assert!(seen.iter().all(|times| *times <= 1), "came more than once: {seen:?}");
        let lost = seen.iter().filter(|times| **times == 0).count();
        assert!(lost < 1_500, "{lost} of 3,000 were lost in three short cuts");
        assert_eq!((status(&cloud, 0).accepted, status(&cloud, 0).open), (1, 1), "the stream has outlived the cuts");
    });
}

#[test]
fn while_there_is_no_link_little_is_kept_and_nothing_for_long() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&format!("{RELAY}[gateway]\n{}", expose_udp("d1", "echo")));
        let way = Cuttable::new(relay_of(&cloud));
        let _device = folder.start_device("d1", &udp_agent("d1", way.address, "echo", udp_echo()));
        linked(&cloud, "d1").await;
        let client = Mail::to(exposure_of(&cloud, 0));
        client.round_trip(b"before").await;
        assert!(way.freeze() > 0);
        // far more than a mailbox holds, and more than may be in flight
        let sent = 400;
        for number in 0..sent {
            client.send(&[u8::try_from(number % 256).unwrap(); 10_000]);
            Timer::after(Duration::from_millis(1)).await;
        }
        let dropped = eventually("dropped datagrams", || async {
            Some(status(&cloud, 0).dropped).filter(|dropped| *dropped > 0)
        })
        .await;
        assert!(dropped < sent, "the first ones went on their way");
        assert_eq!(status(&cloud, 0).open, 1);
    });
}

#[test]
fn a_device_that_stops_does_not_wait_for_whoever_may_be_silent() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&format!("{RELAY}[gateway]\n{}", expose_udp("d1", "echo")));
        let device =
            udp_agent("d1", relay_of(&cloud), "echo", udp_echo()).replace("drain-for = \"0s\"", "drain-for = \"1h\"");
        let mut stopping = folder.start_device("d1", &device);
        linked(&cloud, "d1").await;
        let client = Mail::to(exposure_of(&cloud, 0));
        client.round_trip(b"before").await;
        stopping.stop();
        stopping.stopped().await;
        open_clients(&cloud, 0, 0).await;
        assert_eq!(status(&cloud, 0).failed, 0);
        let _next = folder.start_device("d1", &device.replace("1h", "0s"));
        client.answered(b"after").await;
    });
}

#[test]
fn tcp_and_udp_share_a_number_and_a_reload_takes_each_by_itself() {
    run(async {
        let folder = Folder::new();
        let tcp = expose("d1", "echo");
        let start = |text: &str| folder.start(&format!("{RELAY}[gateway]\n{text}"));
        let mut cloud = start(&tcp);
        let address = exposure_of(&cloud, 0);
        let both = |udp: bool| {
            let tcp = tcp.replace("127.0.0.1:0", &address.to_string());
            let udp =
                if udp { expose_udp("d1", "mail").replace("127.0.0.1:0", &address.to_string()) } else { String::new() };
            format!("{RELAY}[gateway]\n{tcp}{udp}")
        };
        // the port was the system's choice, and is now configured
        drop(cloud);
        cloud = eventually("the port again", || async { folder.try_start(&both(true)).ok() }).await;
        let mail = format!("[services.mail]\ntarget = \"udp:{}\"\n", udp_echo());
        let device = agent("d1", relay_of(&cloud), &[("echo", echo())]) + &mail;
        let _device = folder.start_device("d1", &device);
        linked(&cloud, "d1").await;
        let mut client = Client::connect(address).await;
        client.round_trip(b"stream").await;
        let mail = Mail::to(address);
        mail.round_trip(b"datagram").await;
        let exposures = cloud.gateway().unwrap().exposures();
        let listening: Vec<_> = exposures.iter().map(|exposure| exposure.listen.to_string()).collect();
        assert_eq!(listening, [address.to_string(), format!("udp:{address}")]);

        folder.write("cloud.toml", &both(false));
        cloud.reload();
        assert_eq!(cloud.gateway().unwrap().exposures().len(), 1);
        client.round_trip(b"still here").await;
        // its clients are gone with a UDP port: there is no socket to answer by
        eventually("the end of the client's stream", || async {
            let devices = cloud.gateway().unwrap().devices().await;
            (devices[0].streams == 1).then_some(())
        })
        .await;
        folder.write("cloud.toml", &both(true));
        let end = Instant::now() + Duration::from_secs(20);
        while cloud.gateway().unwrap().exposures().len() < 2 {
            assert!(Instant::now() < end, "the port is still taken");
            Timer::after(Duration::from_millis(5)).await;
            cloud.reload();
        }
        mail.answered(b"again").await;
        client.round_trip(b"still here").await;
        assert_eq!(cloud.relay().unwrap().metrics().listeners.load(Relaxed), 1);
    });
}
