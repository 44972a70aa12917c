//! `kind = "healthchecks"`: pings for a service that expects them and raises the alarm when they
//! stay away: healthchecks.io and what speaks its protocol.
//! <https://healthchecks.io/docs/http_api/>
//!
//! One check stands for one job. Start and end of a run carry the same `rid`, so that the service
//! measures it and tells runs apart.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{Method, Request, header},
};
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
    name: "healthchecks",
    events: &[Event::Start, Event::Success, Event::Failure],
    default: &[Event::Start, Event::Success, Event::Failure],
    counts_runs: true,
    build,
};

/// The service keeps so many bytes of a body.
/// <https://healthchecks.io/docs/attaching_logs/>
const BODY_MAX: usize = 100_000;
/// What it answers with status 200 where there is no such check.
const NOT_FOUND: &str = "OK (not found)";
/// What it answers with status 200 where it did not count the ping.
const RATE_LIMITED: &str = "OK (rate limited)";

#[derive(Debug)]
struct Healthchecks {
    address: Address,
    client: Client,
}

fn build(o: &mut Options<'_>, _context: &Context, d: &mut Diagnostics) -> Option<Arc<dyn Channel>> {
    let address = Address::read(o, d)?;
    Some(Arc::new(Healthchecks { address, client: Client::default() }))
}

/// The end of the path; a test is a note in the log that changes no state.
const fn signal(event: Event) -> &'static str {
    match event {
        Event::Start => "/start",
        Event::Failure => "/fail",
        Event::Success | Event::Recovery => "",
        Event::Findings | Event::Test => "/log",
    }
}

fn body(notice: &Notice) -> String {
    let mut body = notice.lines();
    body.truncate(body.floor_char_boundary(BODY_MAX));
    body
}

#[async_trait]
impl Channel for Healthchecks {
    async fn deliver(
        &self,
        notice: &Notice,
        limit: Duration,
        stop: &CancellationToken,
    ) -> Result<(), Undelivered> {
        let internal = || Undelivered::new(Again::No, "the ping cannot be written");
        let rid = notice.run_uuid.as_deref().map(|uuid| format!("rid={uuid}")).unwrap_or_default();
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.address.with(signal(notice.event), &rid).ok_or_else(internal)?)
            .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .header(header::USER_AGENT, USER_AGENT)
            .body(Body::from(body(notice)))
            .map_err(|_| internal())?;
        let answer = self.client.send(&self.address, request, &[], limit, stop).await?;
        match answer.trim() {
            NOT_FOUND => {
                Err(Undelivered::new(Again::No, format!("{} has no such check", self.address))
                    .hint("copy the ping URL of the check into `url`"))
            }
            RATE_LIMITED => {
                let what = format!("{} takes no more pings for now", self.address);
                Err(Undelivered::new(Again::Yes, what))
            }
            _ => Ok(()),
        }
    }
}
