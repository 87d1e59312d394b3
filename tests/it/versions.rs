//! Versions of the protocol, through the proxy and direct: what is asked for, what the server
//! negotiates, and cancel keys as long as it makes them.

use crate::live::raw::{Message, frame, query};
use crate::live::{Live, Raw, text};
use crate::support::eventually;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const V3_0: u32 = 3 << 16;
const V3_2: u32 = V3_0 | 2;
const CANCEL_REQUEST: u32 = 80_877_102;

/// A connection that asked for this version of the protocol; what came up to ReadyForQuery, or to
/// the end.
async fn start(live: &Live, port: u16, version: u32, more: &[&str]) -> (Raw, Vec<Message>) {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut raw = Raw::of(stream);
    let mut body = version.to_be_bytes().to_vec();
    for word in
        [["user", "postgres"], ["database", &live.db.name]].as_flattened().iter().chain(more)
    {
        body.extend(word.as_bytes());
        body.push(0);
    }
    body.push(0);
    raw.send(&packet(&body)).await;
    let mut messages = Vec::new();
    while let Some(message) = raw.next().await {
        let last = message.tag == b'Z';
        messages.push(message);
        if last {
            break;
        }
    }
    (raw, messages)
}

fn packet(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes(), body].concat()
}

/// A startup's answer without what differs from connection to connection.
fn shown(raw: &Raw, messages: &[Message]) -> Vec<String> {
    let show = |m: &Message| match m.tag {
        b'K' => format!("K with a key of {} bytes", m.body.len() - 4),
        _ => raw.show(m),
    };
    messages.iter().map(show).collect()
}

async fn version(live: &Live) -> u32 {
    text(&live.db.client, "SHOW server_version_num").await.parse().unwrap()
}

#[tokio::test]
async fn every_version_of_the_protocol_is_negotiated_as_without_the_proxy() {
    let live = Live::orders("", "").await;
    let has_3_2 = version(&live).await >= 180_000;
    for asked in [V3_0, V3_0 | 1, V3_2, V3_0 | 9, V3_0 | 9999, 2 << 16, 4 << 16] {
        for more in [&[][..], &["_pq_.unheard_of", "1"], &["search_path", "pg_catalog"]] {
            let (direct, expected) = start(&live, live.db.port, asked, more).await;
            let (proxied, got) = start(&live, live.proxy.port, asked, more).await;
            let (expected, got) = (shown(&direct, &expected), shown(&proxied, &got));
            assert_eq!(got, expected, "{asked:#x} {more:?}");
            let has = |what: &str| got.iter().any(|line| line.starts_with(what));
            if asked >> 16 == 3 {
                let long = has_3_2 && asked >= V3_2;
                assert!(has(&format!("K with a key of {} bytes", if long { 32 } else { 4 })));
                let newest = if has_3_2 { V3_2 } else { V3_0 };
                assert_eq!(has("v"), asked > newest || more.contains(&"1"), "{got:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_cancel_request_with_a_key_of_any_length_reaches_its_backend() {
    let live = Live::orders("", "").await;
    let long = version(&live).await >= 180_000;
    for asked in [V3_0, V3_2] {
        let (mut raw, messages) = start(&live, live.proxy.port, asked, &[]).await;
        let key = messages.iter().find(|m| m.tag == b'K').unwrap().body.clone();
        assert_eq!(key.len(), if long && asked == V3_2 { 36 } else { 8 });
        // A write that is mirrored and waits for its turn: the frames around it are the proxy's.
        live.db.client.batch_execute("BEGIN; LOCK TABLE orders").await.unwrap();
        raw.send(&query("UPDATE orders SET total = 5 WHERE id = 5")).await;
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        eventually("the write waits", async || match text(&live.db.client, waiting).await {
            n if n == "1" => Ok(()),
            n => Err(n),
        })
        .await;
        let request = packet(&[&CANCEL_REQUEST.to_be_bytes()[..], &key].concat());
        // Not this one: a key that differs in its last byte cancels nothing.
        let mut wrong = request.clone();
        *wrong.last_mut().unwrap() ^= 1;
        for request in [wrong, request] {
            let mut canceller =
                Raw::of(TcpStream::connect(("127.0.0.1", live.proxy.port)).await.unwrap());
            canceller.send(&request).await;
            assert_eq!(canceller.stream.read(&mut [0]).await.unwrap(), 0, "it is closed");
        }
        let said = raw.until_ready(1).await;
        let said = raw.shown(&said).join("\n");
        assert!(said.contains("C57014"), "{said}");
        live.db.client.batch_execute("ROLLBACK").await.unwrap();
        raw.send(&frame(b'X', b"")).await;
    }
    live.orders_in_step().await;
}
