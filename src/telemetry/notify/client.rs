//! One HTTP request at a time: TLS as the operating system trusts it, a limit in time, no redirect,
//! no proxy, and no word of the address but its host in any error.
//!
//! Roots are those of the operating system; `SSL_CERT_FILE` and `SSL_CERT_DIR` in the daemon's
//! environment name others. They are read when the first notice goes out.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
};
use futures_util::StreamExt as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::{Again, Undelivered, address::Address};
use crate::domain::failure::chain;

/// What is looked at of an answer, in bytes.
const ANSWER_MAX: usize = 4096;
/// How long its body is read. What the status says counts in any case.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// How we call ourselves.
pub(super) const USER_AGENT: &str = concat!("pgkeep/", env!("CARGO_PKG_VERSION"));

type Connected = HyperClient<HttpsConnector<HttpConnector>, Body>;

/// Speaks HTTP to one address.
#[derive(Debug, Default)]
pub(super) struct Client {
    made: OnceCell<Connected>,
}

impl Client {
    /// Sends a request; the answer is the beginning of the body of a 2xx, as far as it comes at once.
    ///
    /// # Errors
    /// Any other answer, or none in time. `secrets` are cut out of every text.
    pub(super) async fn send(
        &self,
        address: &Address,
        request: Request<Body>,
        secrets: &[&str],
        limit: Duration,
        stop: &CancellationToken,
    ) -> Result<String, Undelivered> {
        let exchange = async {
            let client = self.made.get_or_try_init(|| make(address)).await?;
            let answered = client.request(request).await;
            let answer = answered
                .map_err(|error| unreachable(address, &address.scrub(&chain(&error), secrets)))?;
            judge(address, answer.status(), answer.headers())?;
            Ok(Body::new(answer.into_body()))
        };
        let body = tokio::select! {
            answer = tokio::time::timeout(limit, exchange) => {
                answer.unwrap_or_else(|_| Err(Undelivered::late(address, limit)))?
            }
            () = stop.cancelled() => return Err(Undelivered::stopped()),
        };
        // It was delivered: a body that breaks off, trickles or goes on for ever changes nothing.
        Ok(String::from_utf8_lossy(&beginning(body, stop).await).into_owned())
    }
}

async fn beginning(body: Body, stop: &CancellationToken) -> Vec<u8> {
    let mut begun = Vec::new();
    let mut pieces = body.into_data_stream();
    let read = async {
        while begun.len() < ANSWER_MAX
            && let Some(Ok(piece)) = pieces.next().await
        {
            begun.extend_from_slice(&piece);
        }
    };
    tokio::select! {
        () = read => {}
        () = tokio::time::sleep(ANSWER_TIME) => {}
        () = stop.cancelled() => {}
    }
    begun.truncate(ANSWER_MAX);
    begun
}

async fn make(address: &Address) -> Result<Connected, Undelivered> {
    let internal = |error: String| Undelivered::new(Again::No, format!("TLS: {error}"));
    let mut roots = RootCertStore::empty();
    if address.is_https() {
        let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
        let loaded = loaded.map_err(|error| internal(error.to_string()))?;
        roots.add_parsable_certificates(loaded.certs);
        if roots.is_empty() {
            return Err(Undelivered::new(
                Again::Yes,
                "no certificate of an authority is installed",
            )
            .hint("install the package ca-certificates"));
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| internal(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    // Notices are rare: a connection that was kept would be dead by the next one.
    Ok(HyperClient::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}

fn unreachable(address: &Address, why: &str) -> Undelivered {
    let hint = if why.contains("certificate") {
        "the certificate has to come from an authority that this host trusts: \
         install it there, or name it with SSL_CERT_FILE in the daemon's environment"
    } else {
        "is the address right, and can this host reach it? Proxies are not supported"
    };
    Undelivered::new(Again::Yes, format!("{address}: {why}")).hint(hint)
}

fn judge(address: &Address, status: StatusCode, headers: &HeaderMap) -> Result<(), Undelivered> {
    if status.is_success() {
        return Ok(());
    }
    let again = match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => retry_after(headers),
        StatusCode::REQUEST_TIMEOUT => Again::Yes,
        _ if status.is_server_error() => Again::Yes,
        _ => Again::No,
    };
    let error = Undelivered::new(again, format!("{address} answered {status}"));
    Err(if status.is_redirection() {
        error.hint("redirects are not followed: configure the address that it leads to")
    } else if status.is_client_error() && again == Again::No {
        error.hint("look at `url` and `token`: the receiver does not take it")
    } else {
        error
    })
}

/// `Retry-After` in seconds; the form with a date is not worth reading.
fn retry_after(headers: &HeaderMap) -> Again {
    let seconds =
        headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(Again::Yes, |seconds| Again::After(Duration::from_secs(seconds)))
}
