//! Promise: `/metrics` tells what became of devices, links, streams and clients, and its counters never go back.

#![allow(clippy::unwrap_used)]

mod world;

use std::collections::HashMap;
use std::net::SocketAddr;

use smol::Async;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use umbilical_cloud::supervisor::Cloud;
use world::{
    Client, Cuttable, Folder, agent, echo, embedded, eventually, expose, exposure_of, linked, must_reset, relay_of,
    run, try_echo,
};

/// The series of a scrape, as they are written.
struct Page(HashMap<String, f64>);

impl Page {
    async fn of(cloud: &Cloud) -> Self {
        Self::at(cloud.admin().unwrap().address()).await
    }

    async fn at(admin: SocketAddr) -> Self {
        let mut socket = Async::<std::net::TcpStream>::connect(admin).await.unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
            "{head}"
        );
        assert!(body.ends_with("# EOF\n"), "{body}");
        let series = body.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        Self(series.collect())
    }

    /// The value of a series without the prefix of all.
    fn get(&self, series: &str) -> Option<f64> {
        self.0.get(&format!("umbilical_{series}")).copied()
    }

    #[track_caller]
    fn is(&self, series: &str, value: f64) {
        assert_eq!(self.get(series), Some(value), "{series} of {:#?}", self.0);
    }
}

/// Until a series has that value.
async fn becomes(cloud: &Cloud, series: &str, value: f64) -> Page {
    eventually(&format!("{series} {value}"), || async {
        let page = Page::of(cloud).await;
        (page.get(series) == Some(value)).then_some(page)
    })
    .await
}

/// With an admin port, and agents that are not asked anything unless that is configured.
fn with_admin(config: &str) -> String {
    let config = match config.contains("ask-agents") {
        true => config.to_owned(),
        false => config.replace("[gateway]\n", "[gateway]\nask-agents = 'never'\n"),
    };
    format!("{config}[admin]\nlisten = '127.0.0.1:0'")
}

#[test]
fn links_and_what_becomes_of_them() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&with_admin(&embedded(&[("d1", "echo"), ("d2", "echo")])));
        let page = Page::of(&cloud).await;
        page.is("device_online{device=\"d1\"}", 0.0);
        assert_eq!(page.get("device_round_trip_seconds{device=\"d1\"}"), None, "nothing was measured");

        let modem = Cuttable::new(relay_of(&cloud));
        let _device = folder.start_device("d1", &agent("d1", modem.address, &[("echo", echo())]));
        linked(&cloud, "d1").await;
        let mut client = Client::connect(exposure_of(&cloud, 0)).await;
        client.round_trip(b"hello").await;
        let page = Page::of(&cloud).await;
        for (series, value) in [
            ("device_online{device=\"d1\"}", 1.0),
            ("device_online{device=\"d2\"}", 0.0),
            ("device_links_total{device=\"d1\"}", 1.0),
            ("device_links_total{device=\"d2\"}", 0.0),
            ("device_resumes_total{device=\"d1\"}", 0.0),
            ("device_streams{device=\"d1\"}", 1.0),
            ("device_streams_opened_total{device=\"d1\"}", 1.0),
            ("device_received_bytes_total{device=\"d1\"}", 5.0),
            ("device_sent_bytes_total{device=\"d1\"}", 5.0),
            ("relay_listeners", 1.0),
        ] {
            page.is(series, value);
        }
        assert!(page.get("device_round_trip_seconds{device=\"d1\"}").unwrap() > 0.0);
        assert!(page.get("device_pool_bytes{device=\"d1\"}").unwrap() > 100_000.0);
        let offline = page.get("device_offline_seconds_total{device=\"d1\"}").unwrap();
        let again = Page::of(&cloud).await;
        again.is("device_offline_seconds_total{device=\"d1\"}", offline);
        assert!(
            again.get("device_offline_seconds_total{device=\"d2\"}")
                > page.get("device_offline_seconds_total{device=\"d2\"}")
        );

        assert!(modem.cut() > 0);
        let page = becomes(&cloud, "device_resumes_total{device=\"d1\"}", 1.0).await;
        page.is("device_links_total{device=\"d1\"}", 2.0);
        let cuts = ["closed", "broken", "replaced"]
            .map(|cause| format!("device_cuts_total{{device=\"d1\",cause=\"{cause}\"}}"));
        assert_eq!(cuts.iter().filter_map(|series| page.get(series)).sum::<f64>(), 1.0);
        client.round_trip(b"goes on").await;
        client.finish().await;
    });
}

#[test]
fn sums_outlive_their_sessions() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&with_admin(&embedded(&[("d1", "echo")])));
        for round in 1..=3 {
            let device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
            linked(&cloud, "d1").await;
            try_echo(exposure_of(&cloud, 0)).await.unwrap();
            let done = f64::from(round);
            Page::of(&cloud).await.is("device_received_bytes_total{device=\"d1\"}", 5.0 * done);
            // while the device goes, at no time less is told
            let watch = async {
                loop {
                    let page = Page::of(&cloud).await;
                    page.is("device_received_bytes_total{device=\"d1\"}", 5.0 * done);
                    page.is("device_streams_opened_total{device=\"d1\"}", done);
                    if page.get("device_online{device=\"d1\"}") == Some(0.0) {
                        return;
                    }
                }
            };
            smol::future::zip(smol::unblock(move || drop(device)), watch).await;
        }
        Page::of(&cloud).await.is("device_links_total{device=\"d1\"}", 3.0);
    });
}

#[test]
fn why_clients_were_not_served() {
    run(async {
        let folder = Folder::new();
        let closed = expose("d1", "echo") + "allow = ['192.0.2.0/24']\n";
        let small = expose("d1", "echo") + "max-connections = 1\n";
        let config = embedded(&[("d1", "nothing"), ("d2", "echo")]) + &closed + &small;
        let cloud = folder.start(&with_admin(&config));
        let _device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        linked(&cloud, "d1").await;
        let addresses: Vec<_> = (0..4).map(|number| exposure_of(&cloud, number)).collect();
        for address in &addresses[..3] {
            must_reset(*address).await;
        }
        let mut only = Client::connect(addresses[3]).await;
        only.round_trip(b"I am here").await;
        must_reset(addresses[3]).await;
        let series = |name: &str, number: usize, rest: &str| {
            let (device, service) = [("d1", "nothing"), ("d2", "echo"), ("d1", "echo"), ("d1", "echo")][number];
            let exposure = addresses[number];
            format!("exposure_{name}{{exposure=\"{exposure}\",device=\"{device}\",service=\"{service}\"{rest}}}")
        };
        let reset = series("streams_reset_total", 0, ",reason=\"not-allowed\"");
        let page = becomes(&cloud, &reset, 1.0).await;
        page.is("device_streams_reset_total{device=\"d1\",reason=\"not-allowed\"}", 1.0);
        becomes(&cloud, &series("unreached_total", 1, ""), 1.0).await;
        page.is(&series("turned_away_total", 2, ",reason=\"not-allowed\""), 1.0);
        page.is(&series("turned_away_total", 2, ",reason=\"too-many\""), 0.0);
        page.is(&series("turned_away_total", 3, ",reason=\"too-many\""), 1.0);
        page.is(&series("accepted_total", 3, ""), 2.0);
        page.is(&series("connections", 3, ""), 1.0);
        only.finish().await;
    });
}

#[test]
fn names_are_written_as_the_format_wants_them() {
    run(async {
        let folder = Folder::new();
        let config = world::elsewhere(
            SocketAddr::from(([127, 0, 0, 1], 1)),
            "operator.key",
            &[("line\\nend \\\"quote\\\"", "x")],
        );
        let cloud = folder.start(&with_admin(&config));
        Page::of(&cloud).await.is("device_online{device=\"line\\nend \\\"quote\\\"\"}", 0.0);
        cloud.stop().await;
    });
}

#[test]
fn a_drain_is_told_of_as_well() {
    run(async {
        let folder = Folder::new();
        let config =
            embedded(&[("d1", "echo")]).replace("[gateway]\n", "[gateway]\nsettle-for = '0s'\ndrain-for = '1h'\n");
        let cloud = folder.start(&with_admin(&config));
        let (admin, exposure) = (cloud.admin().unwrap().address(), exposure_of(&cloud, 0));
        let _device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        linked(&cloud, "d1").await;
        Page::at(admin).await.is("ready", 1.0);
        let mut client = Client::connect(exposure).await;
        client.round_trip(b"hello").await;
        let stopping = world::executor().spawn(cloud.stop());
        let closed = || async { Async::<std::net::TcpStream>::connect(exposure).await.is_err().then_some(()) };
        eventually("the public port to close", closed).await;
        let page = Page::at(admin).await;
        page.is("ready", 0.0);
        page.is("device_online{device=\"d1\"}", 1.0);
        page.is("device_streams{device=\"d1\"}", 1.0);
        page.is("device_received_bytes_total{device=\"d1\"}", 5.0);
        client.finish().await;
        stopping.await;
    });
}

#[test]
fn what_the_agent_says_of_itself() {
    run(async {
        let folder = Folder::new();
        let config = embedded(&[("d1", "echo"), ("d2", "echo")]);
        let asking = |every| config.replace("[gateway]\n", &format!("[gateway]\nask-agents = '{every}'\n"));
        let cloud = folder.start(&with_admin(&asking("0s")));
        let device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        linked(&cloud, "d1").await;
        try_echo(exposure_of(&cloud, 0)).await.unwrap();
        let page = Page::of(&cloud).await;
        page.is(&format!("agent_info{{device=\"d1\",version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0);
        for (series, value) in [
            ("agent_up", 1.0),
            ("agent_control_channels_total", 1.0),
            ("agent_sessions", 1.0),
            ("agent_links_total", 1.0),
            ("agent_resumes_total", 0.0),
            // the echo's, and the question itself
            ("agent_streams_opened_total", 2.0),
            ("agent_received_bytes_total", 5.0),
        ] {
            page.is(&format!("{series}{{device=\"d1\"}}"), value);
        }
        assert!(page.get("agent_resident_memory_bytes{device=\"d1\"}").unwrap() > 100_000.0);
        assert_eq!(page.get("agent_up{device=\"d2\"}"), None, "nobody could be asked");
        Page::of(&cloud).await.is("agent_streams_opened_total{device=\"d1\"}", 3.0);

        // from now on less often: what was told stays, also when the device is gone
        folder.write("cloud.toml", &with_admin(&asking("1h")));
        let mut cloud = cloud;
        cloud.reload();
        Page::of(&cloud).await.is("agent_streams_opened_total{device=\"d1\"}", 3.0);
        drop(device);
        becomes(&cloud, "device_online{device=\"d1\"}", 0.0).await.is("agent_received_bytes_total{device=\"d1\"}", 5.0);
    });
}
