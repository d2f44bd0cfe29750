//! Promise: a public port leads to a device's service, for those who may, over one session per device; what can't be
//! reached is refused at once; a change of the configuration touches nothing else.

#![allow(clippy::unwrap_used)]

mod world;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use smol::future::zip;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use umbilical_cloud::supervisor::Cloud;
use world::{
    Client, Cuttable, Folder, RELAY, agent, echo, elsewhere, embedded, eventually, expose, exposure_of, linked,
    must_reset, pattern, relay_of, run, try_echo,
};

#[test]
fn exposures_of_a_device_share_one_session() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&embedded(&[("d1", "one"), ("d1", "two")]));
        let _device = folder.device("d1", relay_of(&cloud), &[("one", echo()), ("two", echo())]);
        linked(&cloud, "d1").await;
        let mut one = Client::connect(exposure_of(&cloud, 0)).await;
        let mut two = Client::connect(exposure_of(&cloud, 1)).await;
        one.round_trip(b"first").await;
        two.round_trip(b"second").await;
        let devices = cloud.gateway().unwrap().devices().await;
        assert_eq!(devices.len(), 1);
        assert_eq!((devices[0].streams, devices[0].linked), (2, true));
        assert_eq!((devices[0].bytes_in, devices[0].bytes_out), (11, 11));
        assert_eq!(cloud.relay().unwrap().metrics().handed_over.load(Relaxed), 1, "one rendezvous, in memory");
        one.finish().await;
        two.finish().await;
        let exposures = eventually("the end of both streams", || async {
            let exposures = cloud.gateway().unwrap().exposures();
            exposures.iter().all(|exposure| exposure.open == 0).then_some(exposures)
        })
        .await;
        assert_eq!(exposures.iter().map(|exposure| exposure.bytes_in).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(exposures.iter().map(|exposure| exposure.failed + exposure.turned_away).sum::<u64>(), 0);
    });
}

#[test]
fn a_client_without_a_device_is_closed_at_once_and_the_next_one_is_served_when_it_is_there() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&embedded(&[("d1", "echo")]));
        let before = Instant::now();
        for _ in 0..20 {
            must_reset(exposure_of(&cloud, 0)).await;
        }
        assert!(before.elapsed() < Duration::from_secs(5), "took {:?}", before.elapsed());
        let _device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        eventually("the listener", || async {
            (cloud.relay().unwrap().metrics().listeners.load(Relaxed) == 1).then_some(())
        })
        .await;
        // whatever the pause after so many failures: a client's arrival is reason enough to dial
        try_echo(exposure_of(&cloud, 0)).await.unwrap();
        let exposures = cloud.gateway().unwrap().exposures();
        assert_eq!((exposures[0].accepted, exposures[0].failed), (21, 20));
    });
}

#[test]
fn an_unknown_service_and_a_dead_target_close_the_client_and_nobody_else() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&embedded(&[("d1", "echo"), ("d1", "ghost"), ("d1", "dead")]));
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let _device = folder.device("d1", relay_of(&cloud), &[("echo", echo()), ("dead", nobody)]);
        linked(&cloud, "d1").await;
        let mut open = Client::connect(exposure_of(&cloud, 0)).await;
        open.round_trip(b"before").await;
        must_reset(exposure_of(&cloud, 1)).await;
        must_reset(exposure_of(&cloud, 2)).await;
        open.round_trip(b"after").await;
        open.finish().await;
    });
}

#[test]
fn only_those_who_may_connect_do() {
    run(async {
        let folder = Folder::new();
        let text = format!(
            "{}allow = ['10.0.0.0/8', '127.0.0.2']\n{}allow = ['10.0.0.0/8', '127.0.0.0/8']\n",
            embedded(&[("d1", "echo")]),
            expose("d1", "echo")
        );
        let cloud = folder.start(&text);
        let _device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        linked(&cloud, "d1").await;
        must_reset(exposure_of(&cloud, 0)).await;
        try_echo(exposure_of(&cloud, 1)).await.unwrap();
        let exposures = cloud.gateway().unwrap().exposures();
        assert_eq!((exposures[0].turned_away, exposures[1].turned_away), (1, 0));
    });
}

#[test]
fn one_client_too_many_is_closed_until_another_leaves() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&format!("{}max-connections = 2\n", embedded(&[("d1", "echo")])));
        let _device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        linked(&cloud, "d1").await;
        let address = exposure_of(&cloud, 0);
        let (mut one, mut two) = (Client::connect(address).await, Client::connect(address).await);
        one.round_trip(b"1").await;
        two.round_trip(b"2").await;
        must_reset(address).await;
        one.finish().await;
        eventually("room for another", || async { try_echo(address).await.ok() }).await;
        two.round_trip(b"still here").await;
    });
}

#[test]
fn streams_outlive_their_link() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&embedded(&[("d1", "echo")]));
        let way = Cuttable::new(relay_of(&cloud));
        let _device = folder.device("d1", way.address, &[("echo", echo())]);
        linked(&cloud, "d1").await;
        let client = Client::connect(exposure_of(&cloud, 0)).await;
        let data = pattern(8_000_000);
        let (mut reader, mut writer) = (&client.0, &client.0);
        let links = || cloud.relay().unwrap().metrics().handed_over.load(Relaxed);
        let write = async {
            // in parts, so that each cut comes in the middle of something
            for part in data.chunks(data.len() / 4) {
                let (half, rest) = part.split_at(part.len() / 2);
                writer.write_all(half).await.unwrap();
                let before = links();
                assert!(way.cut() > 0, "there was nothing to cut");
                writer.write_all(rest).await.unwrap();
                eventually("another link", || async { (links() > before).then_some(()) }).await;
                linked(&cloud, "d1").await;
            }
            client.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        };
        let read = async {
            let mut back = Vec::new();
            reader.read_to_end(&mut back).await.unwrap();
            back
        };
        let ((), back) = zip(write, read).await;
        assert!(back == data, "bytes were lost, doubled or reordered");
        assert!(links() >= 5, "the link was not lost each time");
    });
}

#[test]
fn a_device_that_changed_its_network_is_linked_anew_before_anyone_notices() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&embedded(&[("d1", "echo")]));
        let way = Cuttable::new(relay_of(&cloud));
        let impatient = agent("d1", way.address, &[("echo", echo())]);
        let impatient = impatient.replace("[relay.auth]", "keep-alive = \"5s\"\n[relay.auth]");
        let _device = folder.start_device("d1", &impatient);
        linked(&cloud, "d1").await;
        let mut open = Client::connect(exposure_of(&cloud, 0)).await;
        open.round_trip(b"hello").await;

        // its connections carry nothing more, and nobody is told: the gateway would give the link up after 75 s of silence
        assert!(way.freeze() >= 2);
        let before = Instant::now();
        eventually("another link", || async {
            (cloud.relay().unwrap().metrics().handed_over.load(Relaxed) == 2).then_some(())
        })
        .await;
        open.round_trip(b"still here").await;
        assert!(before.elapsed() < Duration::from_secs(25), "took {:?}", before.elapsed());
        open.finish().await;
    });
}

#[test]
fn a_relay_elsewhere_is_dialled_with_a_key() {
    run(async {
        let folder = Folder::new();
        let relay = folder.start(RELAY);
        let address = relay_of(&relay);
        let _device = folder.device("d1", address, &[("echo", echo())]);
        eventually("the listener", || async {
            (relay.relay().unwrap().metrics().listeners.load(Relaxed) == 1).then_some(())
        })
        .await;
        let gateway = folder.start(&elsewhere(address, "operator.key", &[("d1", "echo"), ("d2", "echo")]));
        linked(&gateway, "d1").await;
        let mut client = Client::connect(exposure_of(&gateway, 0)).await;
        client.round_trip(&pattern(1_000_000)).await;
        client.finish().await;
        assert_eq!(relay.relay().unwrap().metrics().joined.load(Relaxed), 1);
        // its other device is not there
        must_reset(exposure_of(&gateway, 1)).await;
    });
}

#[test]
fn a_wrong_key_closes_clients_at_once() {
    run(async {
        let folder = Folder::new();
        let relay = folder.start(RELAY);
        let _device = folder.device("d1", relay_of(&relay), &[("echo", echo())]);
        folder.write("wrong.key", "another key");
        let gateway = folder.start(&elsewhere(relay_of(&relay), "wrong.key", &[("d1", "echo")]));
        must_reset(exposure_of(&gateway, 0)).await;
        // the key is read for each dial: a corrected file is enough
        folder.write("wrong.key", "key of operator");
        eventually("an answer", || async { try_echo(exposure_of(&gateway, 0)).await.ok() }).await;
    });
}

#[test]
fn a_device_that_restarts_is_found_again() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&embedded(&[("d1", "echo")]));
        let service = echo();
        let device = folder.device("d1", relay_of(&cloud), &[("echo", service)]);
        linked(&cloud, "d1").await;
        try_echo(exposure_of(&cloud, 0)).await.unwrap();
        drop(device);
        eventually("the end of the link", || async {
            let devices = cloud.gateway().unwrap().devices().await;
            (!devices[0].linked).then_some(())
        })
        .await;
        let _device = folder.device("d1", relay_of(&cloud), &[("echo", service)]);
        eventually("an answer", || async { try_echo(exposure_of(&cloud, 0)).await.ok() }).await;
    });
}

#[test]
fn an_agent_that_goes_away_lets_streams_finish_while_another_takes_over() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&embedded(&[("d1", "echo")]));
        let service = echo();
        let patient = agent("d1", relay_of(&cloud), &[("echo", service)]).replace("\"0s\"", "\"20s\"");
        let mut old = folder.start_device("d1", &patient);
        linked(&cloud, "d1").await;
        let mut open = Client::connect(exposure_of(&cloud, 0)).await;
        open.round_trip(b"hello").await;
        old.stop();
        eventually("the news", || async { (!cloud.gateway().unwrap().devices().await[0].linked).then_some(()) }).await;
        open.round_trip(b"still here").await;

        let _new = folder.device("d1", relay_of(&cloud), &[("echo", service)]);
        eventually("an answer", || async { try_echo(exposure_of(&cloud, 0)).await.ok() }).await;
        open.round_trip(b"and still").await;
        open.finish().await;
        old.stopped().await;
        let devices = cloud.gateway().unwrap().devices().await;
        assert_eq!(devices[0].bytes_in, 5 + 10 + 9 + 5, "what the first session carried counts too");
    });
}

#[test]
fn a_port_in_use_is_named_and_nothing_starts() {
    let folder = Folder::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    for (text, name) in [
        (
            embedded(&[("d1", "echo"), ("d2", "echo")]).replacen(
                "127.0.0.1:0\"\ndevice = \"d2\"",
                &format!("{address}\"\ndevice = \"d2\""),
                1,
            ),
            "the exposure of echo of d2",
        ),
        (RELAY.replace("127.0.0.1:0", &address.to_string()), "the relay"),
        (format!("{RELAY}[admin]\nlisten = \"{address}\""), "the admin port"),
    ] {
        let Err(error) = folder.try_start(&text) else { panic!("it started: {text}") };
        let expected = format!("{name} cannot listen on {address}: Address already in use (os error 98); ");
        assert!(error.to_string().starts_with(&expected), "expected {expected}\n   found {error}");
        assert!(
            error.to_string().ends_with("choose another port") || error.to_string().ends_with("choose another one")
        );
    }
}

#[test]
fn a_stop_lets_streams_finish_and_resets_those_that_do_not() {
    run(async {
        for patient in [true, false] {
            let folder = Folder::new();
            let drain = if patient { "20s" } else { "0s" };
            let text = embedded(&[("d1", "echo")]).replace("[gateway]", &format!("[gateway]\ndrain-for = '{drain}'"));
            let cloud = folder.start(&text);
            let _device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
            linked(&cloud, "d1").await;
            let address = exposure_of(&cloud, 0);
            let mut open = Client::connect(address).await;
            open.round_trip(b"hello").await;
            let before = Instant::now();
            let client = async {
                eventually("the public port to close", || async {
                    smol::Async::<std::net::TcpStream>::connect(address).await.is_err().then_some(())
                })
                .await;
                if patient {
                    open.round_trip(b"still here").await;
                    open.finish().await;
                } else {
                    open.must_be_reset().await;
                }
            };
            zip(cloud.stop(), client).await;
            assert!(before.elapsed() < Duration::from_secs(10), "took {:?}", before.elapsed());
        }
    });
}

// ---- reload ----

fn reload(folder: &Folder, cloud: &mut Cloud, text: &str) {
    folder.write("cloud.toml", text);
    cloud.reload();
}

#[test]
fn a_reload_adds_removes_and_changes_exposures_beside_open_streams() {
    run(async {
        let folder = Folder::new();
        let mut cloud = folder.start(&embedded(&[("d1", "one"), ("d1", "two")]));
        let _device = folder.device("d1", relay_of(&cloud), &[("one", echo()), ("two", echo())]);
        let _other = folder.device("d2", relay_of(&cloud), &[("one", echo())]);
        linked(&cloud, "d1").await;
        let (relay, address) = (relay_of(&cloud), [exposure_of(&cloud, 0), exposure_of(&cloud, 1)]);
        let mut one = Client::connect(address[0]).await;
        let mut two = Client::connect(address[1]).await;
        one.round_trip(b"one").await;
        two.round_trip(b"two").await;

        // the second is gone, a third on another device is new
        let text = embedded(&[("d1", "one")]);
        let third = expose("d2", "one").replace("127.0.0.1", "127.0.0.2");
        reload(&folder, &mut cloud, &format!("{text}{third}"));
        assert_eq!((relay_of(&cloud), exposure_of(&cloud, 0)), (relay, address[0]), "what stays, stays open");
        linked(&cloud, "d2").await;
        try_echo(exposure_of(&cloud, 1)).await.unwrap();
        eventually("the removed port to close", || async {
            let refused = smol::Async::<std::net::TcpStream>::connect(address[1]).await.err()?;
            (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
        })
        .await;
        one.round_trip(b"not disturbed").await;
        two.round_trip(b"may finish").await;

        // the first leads elsewhere now, and nobody may use it
        reload(&folder, &mut cloud, &format!("{}allow = []\n", embedded(&[("d2", "one")])));
        assert_eq!(exposure_of(&cloud, 0), address[0]);
        must_reset(address[0]).await;
        reload(&folder, &mut cloud, &embedded(&[("d2", "one")]));
        try_echo(address[0]).await.unwrap();
        assert_eq!(cloud.gateway().unwrap().devices().await.len(), 1);

        // the device without exposures keeps its streams until they end
        one.round_trip(b"still there").await;
        two.round_trip(b"here too").await;
        one.finish().await;
        two.finish().await;
    });
}

#[test]
fn a_reload_that_cannot_be_changes_nothing() {
    run(async {
        let folder = Folder::new();
        let good = embedded(&[("d1", "echo")]);
        let mut cloud = folder.start(&good);
        let _device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        linked(&cloud, "d1").await;
        let addresses = (relay_of(&cloud), cloud.gateway().unwrap().addresses());
        let mut open = Client::connect(exposure_of(&cloud, 0)).await;
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken_exposure = expose("d1", "other").replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string());
        for bad in [
            "[relay\n".to_owned(),
            good.replace("echo", "e c h o"),
            good.replace("device.key", "no.key"),
            format!("{good}{taken_exposure}"),
            good.replacen("127.0.0.1:0", &taken.local_addr().unwrap().to_string(), 1),
            format!("{good}[admin]\nlisten = '{}'", taken.local_addr().unwrap()),
        ] {
            reload(&folder, &mut cloud, &bad);
            assert_eq!((relay_of(&cloud), cloud.gateway().unwrap().addresses()), addresses, "{bad}");
            open.round_trip(b"not disturbed").await;
            try_echo(addresses.1[0]).await.unwrap();
        }
        // a port that another program held is no harm to the next attempt
        drop(taken);
        reload(&folder, &mut cloud, &format!("{good}{taken_exposure}"));
        assert_eq!(cloud.gateway().unwrap().addresses().len(), 2);
    });
}

#[test]
fn a_reload_brings_and_takes_whole_halves() {
    run(async {
        let folder = Folder::new();
        let mut cloud = folder.start(RELAY);
        assert!(cloud.gateway().is_none() && cloud.admin().is_none());
        let relay = relay_of(&cloud);
        let _device = folder.device("d1", relay, &[("echo", echo())]);

        reload(&folder, &mut cloud, &format!("{}[admin]\nlisten = '127.0.0.1:0'", embedded(&[("d1", "echo")])));
        assert_eq!(relay_of(&cloud), relay);
        eventually("an answer", || async { try_echo(exposure_of(&cloud, 0)).await.ok() }).await;
        let address: SocketAddr = exposure_of(&cloud, 0);
        let admin = cloud.admin().unwrap().address();

        reload(&folder, &mut cloud, RELAY);
        assert!(cloud.gateway().is_none());
        for gone in [address, admin] {
            eventually("the port to close", || async {
                smol::Async::<std::net::TcpStream>::connect(gone).await.is_err().then_some(())
            })
            .await;
        }
    });
}

#[test]
fn a_key_that_was_changed_counts_after_a_reload() {
    run(async {
        let folder = Folder::new();
        let mut cloud = folder.start(&embedded(&[("d1", "echo")]));
        folder.write("device.key", "new key of device");
        // the agent has the new key, the relay the old one
        let _device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        eventually("the refusal", || async {
            cloud
                .relay()
                .unwrap()
                .metrics()
                .rejections()
                .any(|(status, count)| status == 401 && count > 0)
                .then_some(())
        })
        .await;
        cloud.reload();
        let _again = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        eventually("an answer", || async { try_echo(exposure_of(&cloud, 0)).await.ok() }).await;
    });
}
