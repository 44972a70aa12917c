//! `kind = "webhook"`: a POST with the notice as JSON.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, header},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::{
    Again, Channel, Context, NotifyKind, Undelivered,
    address::Address,
    client::{Client, USER_AGENT},
};
use crate::{
    config::{Diagnostics, Options},
    domain::notice::{Event, Notice},
};

/// The kind.
pub(super) const KIND: NotifyKind = NotifyKind {
    name: "webhook",
    events: Event::CHOICES,
    default: &[Event::Failure, Event::Recovery, Event::Findings],
    counts_runs: false,
    build,
};

#[derive(Debug)]
struct Webhook {
    address: Address,
    token: Option<SecretString>,
    client: Client,
}

fn build(o: &mut Options<'_>, _context: &Context, d: &mut Diagnostics) -> Option<Arc<dyn Channel>> {
    let span = ["token", "token_file", "token_credential"].map(|key| o.given(key));
    let token = o.secret("token", d).map(|token| token.value);
    if let Some(text) = &token
        && bearer(text).is_none()
    {
        d.error(
            span.into_iter().flatten().next(),
            "the token has characters that no header can hold",
        );
    }
    let address = Address::read(o, d)?;
    Some(Arc::new(Webhook { address, token, client: Client::default() }))
}

/// `Authorization`, kept out of whatever prints headers.
fn bearer(token: &SecretString) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[async_trait]
impl Channel for Webhook {
    async fn deliver(
        &self,
        notice: &Notice,
        limit: Duration,
        stop: &CancellationToken,
    ) -> Result<(), Undelivered> {
        let internal = |error: &dyn std::fmt::Display| {
            Undelivered::new(Again::No, format!("the notice cannot be written: {error}"))
        };
        let body = serde_json::to_vec(notice).map_err(|error| internal(&error))?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.address.uri())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, USER_AGENT);
        if let Some(bearer) = self.token.as_ref().and_then(bearer) {
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let request = request.body(Body::from(body)).map_err(|error| internal(&error))?;
        let token = self.token.as_ref().map_or("", |token| token.expose_secret());
        self.client.send(&self.address, request, &[token], limit, stop).await.map(drop)
    }
}
