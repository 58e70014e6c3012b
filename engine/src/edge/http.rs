//! HTTP for people and machines that watch: `/status`, `/metrics`, `/livez`, `/readyz`.
//!
//! hyper over glommio's sockets, on the control plane's thread: however slow or many those who ask are,
//! a data thread notices at most one short question, and that at most every [`GATHERED_FOR`].
//!
//! | path | answer |
//! |---|---|
//! | `/status` | the node's state, JSON ([`super::report`]) |
//! | `/metrics` | OpenMetrics text ([`super::metrics`]) |
//! | `/livez` | 200 while the process answers |
//! | `/readyz` | 200 when every group that the node keeps knows a leader, else 503 and why |
//!
//! Errors are RFC 9457 problem documents.
//!
//! # Left out
//!
//! TLS and authentication: so the default address is the machine's own. The JSON API for locks, queues
//! and cache lines.

mod io;

use super::metrics;
use super::report::{Facts, Gathered, Report};
use glommio::net::{TcpListener, TcpStream};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Connections that are served at a time; one more waits until one that asks nothing has made room.
pub const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take until its next request is there, and its answer taken.
pub const REQUEST_WITHIN: Duration = Duration::from_secs(20);
/// The same while all connections are taken: probes must come through.
pub const REQUEST_WITHIN_FULL: Duration = Duration::from_secs(1);
/// How long what was gathered answers further requests.
pub const GATHERED_FOR: Duration = Duration::from_millis(20);
/// A request's head, at most, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How often a connection's time is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The rest after an accept that failed, most likely for want of a descriptor, and while all connections are taken.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Asks the engines for their state.
pub type Gather = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Gathered>>>>;

/// What is served.
pub struct Site {
    /// What does not change.
    pub facts: Rc<Facts>,
    /// Where the rest comes from.
    pub gather: Gather,
}

/// Serves until the task is dropped.
pub async fn serve(listener: std::net::TcpListener, site: Rc<Site>) {
    // glommio's own bind would share the port with another process.
    // SAFETY: the descriptor is a listening socket that `into_raw_fd` gave up, so it is owned once.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    let open = Rc::new(Cell::new(0));
    loop {
        match listener.accept().await {
            Ok(stream) => {
                while open.get() >= CONNECTIONS_MAX {
                    glommio::timer::sleep(ACCEPT_REST).await;
                }
                open.set(open.get() + 1);
                let (site, open) = (Rc::clone(&site), Rc::clone(&open));
                let task = glommio::spawn_local(async move {
                    converse(stream, site, &open).await;
                    open.set(open.get() - 1);
                });
                task.detach();
            }
            Err(e) => {
                tracing::warn!("accepting an HTTP connection failed: {e}");
                glommio::timer::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Serves one connection until it ends or takes too long.
async fn converse(stream: TcpStream, site: Rc<Site>, open: &Cell<usize>) {
    // Without it an answer may wait for a delayed acknowledgement; no more depends on it.
    let _ = stream.set_nodelay(true);
    let heard = Rc::new(Cell::new(Instant::now()));
    let hears = Rc::clone(&heard);
    let service = service_fn(move |request: Request<Incoming>| {
        hears.set(Instant::now());
        let site = Rc::clone(&site);
        async move { Ok::<_, Infallible>(answer(&site, request.method(), request.uri().path()).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.max_buf_size(HEAD_BYTES_MAX);
    let connection = http.serve_connection(io::Socket::new(stream), service);
    let served = async {
        if let Err(e) = connection.await {
            tracing::debug!("an HTTP connection ended: {e}");
        }
    };
    let too_long = async {
        loop {
            let full = open.get() >= CONNECTIONS_MAX;
            let within = if full { REQUEST_WITHIN_FULL } else { REQUEST_WITHIN };
            if heard.get().elapsed() >= within {
                return;
            }
            glommio::timer::sleep(LOOK_EVERY).await;
        }
    };
    futures_lite::future::or(served, too_long).await;
}

type Answer = Response<Full<Bytes>>;

async fn answer(site: &Site, method: &Method, path: &str) -> Answer {
    let known = ["/status", "/metrics", "/livez", "/readyz"];
    if !known.contains(&path) {
        let detail = format!("there is no {path}; there are {}", known.join(", "));
        return problem(StatusCode::NOT_FOUND, &detail);
    }
    if method != Method::GET && method != Method::HEAD {
        let detail = format!("{path} can only be read: use GET");
        let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, &detail);
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    if path == "/livez" {
        return respond(StatusCode::OK, "text/plain; charset=utf-8", "live\n".into());
    }
    let gathered = (site.gather)().await;
    match path {
        "/status" => {
            let json = Report::new(&site.facts, &gathered).json();
            respond(StatusCode::OK, "application/json", json.into())
        }
        "/metrics" => {
            let text = metrics::text(&site.facts, &gathered);
            respond(StatusCode::OK, metrics::MEDIA_TYPE, text.into())
        }
        _ => match gathered.unready(&site.facts) {
            None => respond(StatusCode::OK, "text/plain; charset=utf-8", "ready\n".into()),
            Some(why) => problem(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
    }
}

fn respond(status: StatusCode, media_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A problem document (RFC 9457).
fn problem(status: StatusCode, detail: &str) -> Answer {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    respond(status, "application/problem+json", format!("{body}\n").into())
}

#[cfg(test)]
mod tests;
