//! Promise: the admin port tells how devices and exposures are doing, as JSON, whether new connections are welcome, and
//! answers whatever it is asked.

#![allow(clippy::unwrap_used)]

mod world;

use std::net::SocketAddr;

use serde_json::{Value, json};
use smol::Async;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use world::{Client, Folder, echo, embedded, eventually, executor, exposure_of, linked, relay_of, run, try_echo};

/// Status line, headers, body.
async fn ask(admin: SocketAddr, request: &str) -> (String, String, String) {
    let mut socket = Async::<std::net::TcpStream>::connect(admin).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    (status.to_owned(), headers.to_owned(), body.to_owned())
}

async fn status(admin: SocketAddr) -> Value {
    let (status, headers, body) = ask(admin, "GET /status HTTP/1.0\r\n\r\n").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(headers.contains("Content-Type: application/json\r\n"), "{headers}");
    assert!(headers.contains(&format!("Content-Length: {}\r\n", body.len())), "{headers}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn figures_of_devices_and_exposures() {
    run(async {
        let folder = Folder::new();
        let cloud =
            folder.start(&format!("{}[admin]\nlisten = '127.0.0.1:0'", embedded(&[("d2", "x"), ("d1", "echo")])));
        let admin = cloud.admin().unwrap().address();
        let down = |name| json!({"name": name, "link": "down", "round_trip_ms": null, "streams": 0, "bytes_in": 0, "bytes_out": 0});
        assert_eq!(status(admin).await["devices"], json!([down("d1"), down("d2")]));

        let _device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        linked(&cloud, "d1").await;
        let mut client = Client::connect(exposure_of(&cloud, 1)).await;
        client.round_trip(b"hello").await;
        let open = status(admin).await;
        assert_eq!(open["devices"][1], down("d2"));
        let d1 = &open["devices"][0];
        assert_eq!(
            (&d1["link"], &d1["streams"], &d1["bytes_in"], &d1["bytes_out"]),
            (&json!("up"), &json!(1), &json!(5), &json!(5))
        );
        assert!(d1["round_trip_ms"].as_f64().unwrap() > 0.0);
        client.finish().await;
        let exposures = eventually("the end of the stream", || async {
            let exposures = status(admin).await["exposures"].clone();
            (exposures[1]["open"] == 0).then_some(exposures)
        })
        .await;
        let listen = exposure_of(&cloud, 1).to_string();
        let expected = json!({"listen": listen, "device": "d1", "service": "echo", "open": 0, "accepted": 1, "turned_away": 0, "failed": 0, "dropped": 0, "bytes_in": 5, "bytes_out": 5});
        assert_eq!(exposures[1], expected);
        assert_eq!(exposures[0]["device"], "d2");
    });
}

#[test]
fn whatever_it_is_asked_it_answers() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&format!("{}[admin]\nlisten = '127.0.0.1:0'", world::RELAY));
        let admin = cloud.admin().unwrap().address();
        assert_eq!(status(admin).await, json!({"devices": [], "exposures": []}));
        for (request, expected, body) in [
            ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK", "ok\n"),
            ("HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK", ""),
            ("GET /healthz?x=y HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK", "ok\n"),
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found", "there are /healthz, /readyz, /status and /metrics\n"),
            ("POST /status HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed", "only GET and HEAD are answered\n"),
        ] {
            let (status, headers, found) = ask(admin, request).await;
            assert_eq!((status.as_str(), found.as_str()), (expected, body), "{request}");
            assert!(headers.contains("Connection: close") && headers.contains("Cache-Control: no-store"), "{headers}");
        }
        assert!(ask(admin, "nonsense\r\n\r\n").await.0.starts_with("HTTP/1.1 400 "));
        assert!(ask(admin, &format!("GET /{} HTTP/1.1\r\n", "x".repeat(40_000))).await.0.starts_with("HTTP/1.1 431 "));
        // it still serves
        assert_eq!(ask(admin, "GET /healthz HTTP/1.1\r\n\r\n").await.2, "ok\n");
    });
}

/// A relay and a gateway with an exposure of `d1`, these lines in `[gateway]`, and an admin port.
fn gateway_with(lines: &str) -> String {
    let config = embedded(&[("d1", "echo")]).replace("[gateway]\n", &format!("[gateway]\n{lines}\n"));
    format!("{config}[admin]\nlisten = '127.0.0.1:0'")
}

/// Status code and text.
async fn readiness(admin: SocketAddr) -> (String, String) {
    let (status, _, body) = ask(admin, "GET /readyz HTTP/1.1\r\n\r\n").await;
    (status.split(' ').nth(1).unwrap().to_owned(), body)
}

fn said(code: &str, text: &str) -> (String, String) {
    (code.to_owned(), format!("{text}\n"))
}

#[test]
fn it_is_ready_once_devices_are_back_or_have_had_their_time() {
    run(async {
        let folder = Folder::new();
        let relay_only = folder.start(&format!("{}[admin]\nlisten = '127.0.0.1:0'", world::RELAY));
        assert_eq!(readiness(relay_only.admin().unwrap().address()).await, said("200", "ready"));
        let impatient = folder.start(&gateway_with("settle-for = '0s'"));
        assert_eq!(readiness(impatient.admin().unwrap().address()).await, said("200", "ready"));

        let cloud = folder.start(&gateway_with("settle-for = '1h'"));
        let admin = cloud.admin().unwrap().address();
        assert_eq!(readiness(admin).await, said("503", "not ready: 1 devices have no link yet"));
        let device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        linked(&cloud, "d1").await;
        assert_eq!(readiness(admin).await, said("200", "ready"));
        // a device that goes is no reason to send its clients, and those of others, elsewhere
        drop(device);
        eventually("the loss of the device", || async { (cloud.gateway()?.awaited() == 1).then_some(()) }).await;
        assert_eq!(readiness(admin).await, said("200", "ready"));
    });
}

#[test]
fn while_it_says_that_it_stops_it_still_takes_clients() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&gateway_with("drain-after = '1h'"));
        let (admin, exposure) = (cloud.admin().unwrap().address(), exposure_of(&cloud, 0));
        let _device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        linked(&cloud, "d1").await;
        assert_eq!(readiness(admin).await, said("200", "ready"));
        let _stopping = executor().spawn(cloud.stop());
        eventually("the end of readiness", || async {
            (readiness(admin).await == said("503", "not ready: stopping")).then_some(())
        })
        .await;
        try_echo(exposure).await.unwrap();
        assert_eq!(ask(admin, "GET /healthz HTTP/1.1\r\n\r\n").await.2, "ok\n");
    });
}

#[test]
fn how_it_is_doing_is_told_to_the_end_of_the_drain() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(&gateway_with("drain-for = '1h'"));
        let (admin, exposure) = (cloud.admin().unwrap().address(), exposure_of(&cloud, 0));
        let _device = folder.device("d1", relay_of(&cloud), &[("echo", echo())]);
        linked(&cloud, "d1").await;
        let mut client = Client::connect(exposure).await;
        client.round_trip(b"hello").await;
        let stopping = executor().spawn(cloud.stop());
        eventually("the public port to close", || async {
            Async::<std::net::TcpStream>::connect(exposure).await.is_err().then_some(())
        })
        .await;
        client.round_trip(b"more").await;
        assert_eq!(readiness(admin).await, said("503", "not ready: stopping"));
        let told = status(admin).await;
        assert_eq!((&told["devices"][0]["name"], &told["devices"][0]["streams"]), (&json!("d1"), &json!(1)));
        assert_eq!((&told["exposures"][0]["service"], &told["exposures"][0]["open"]), (&json!("echo"), &json!(1)));
        assert_eq!(told["devices"][0]["bytes_in"], 9);
        client.finish().await;
        stopping.await;
    });
}
