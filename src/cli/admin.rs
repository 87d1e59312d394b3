//! What only a running process knows, asked of its admin server: one request, one answer.

use super::failure::Failure;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// From the connection to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer is longer only if somebody else listens there.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Status and body of `GET path`.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), Failure> {
    let asked = timeout(TIMEOUT, ask(address, path)).await;
    let answer = asked.unwrap_or_else(|_late| Err(std::io::ErrorKind::TimedOut.into()));
    answer.map_err(|error| {
        Failure::from_error(&error).hint(format!(
            "only a running proxy knows: is `pgsegue serve` up, with its admin server on \
             {address}? --admin names another address"
        ))
    })
}

async fn ask(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: */*\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    let parts = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parts.ok_or_else(|| std::io::Error::other(format!("{address} does not speak HTTP")))
}
