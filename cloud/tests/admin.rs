//! Promise: the admin port tells how devices and exposures are doing, as JSON, and answers whatever it is asked.

#![allow(clippy::unwrap_used)]

mod world;

use std::net::SocketAddr;

use serde_json::{Value, json};
use smol::Async;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use world::{Client, Folder, echo, embedded, eventually, exposure_of, linked, relay_of, run};

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
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found", "there are /status and /healthz\n"),
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
