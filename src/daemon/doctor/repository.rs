//! One repository: can it be reached, does its store keep what it promises, and can what is encrypted
//! there be read by whoever has the key?

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures_util::TryStreamExt as _;
use jiff::Timestamp;

use super::Item;
use crate::{
    checks::doctor::{self, KEYS, repository::RepositoryView},
    codec::{
        encrypt::{self, PIECE_BYTES},
        identity::Identities,
    },
    domain::{
        failure::{Class, Failure, IntoFailure, chain},
        finding::{Finding, Found, Severity},
    },
    repository::{
        ask::within,
        handle::Handle,
        listing::{Entry, Listed, Within},
        newest::{Criteria, Examined, Newest, Verdict},
        probe::{Probed, probe},
        repo::Repository,
        store::{Store, StoreError, StoreErrorKind},
    },
    sys::{host, task::Task},
};

/// How long one repository may take.
const LIMIT: Duration = Duration::from_mins(2);
/// How long a probe that is under way when doctor is stopped has to remove its object.
const TIDY: Duration = Duration::from_secs(10);
/// The header of an age file, and more than its first chunk.
const BEGINNING: u64 = 3 * PIECE_BYTES as u64;

/// Looks at one repository.
pub(super) async fn look(
    handle: &Handle,
    databases: u64,
    identities: Option<&Identities>,
    task: &Task,
    show: &mut impl FnMut(Item),
) {
    let group = format!("repository {}", handle.name());
    let task = &task.doing(format!("look at repository {}", handle.name()));
    let work = async {
        let _waits = task.progress.waits_for(format!("repository {}", handle.name()));
        let (store, there) =
            within(handle.answer_timeout(), task.phrase(), || None, handle.store()).await?;
        // A nonce that is not random only means that two probes may meet.
        let nonce = host::random_u64().unwrap_or_default();
        let probed = probe(&*store, &*task.clock, nonce).await?;
        Ok::<_, StoreError>((store, there, probed))
    };
    let mut work = pin!(work);
    let looked = tokio::select! {
        biased;
        () = task.cancel.cancelled() => {
            // Dropped, it would leave its object: in a folder, where root asks, one that the daemon
            // cannot list.
            tokio::time::timeout(TIDY, work).await.ok();
            return;
        }
        looked = tokio::time::timeout(LIMIT, work.as_mut()) => looked,
    };
    let (store, there, probed) = match looked {
        Ok(Ok(looked)) => looked,
        Ok(Err(error)) => return show(Item::failed(&group, "reach", error.into_failure(task))),
        Err(_) => {
            let what = format!("it does not answer within {} s", LIMIT.as_secs());
            let failure = task
                .failure(Class::RepositoryUnavailable, what)
                .hint("check the network, `endpoint` and the mount");
            return show(Item::failed(&group, "reach", failure));
        }
    };
    show(reached(&group, &probed, there));
    for looked in doctor::look(doctor::repository::LINES, &RepositoryView { probed, databases }) {
        show(Item::of(&group, looked));
    }
    if !handle.recipients().is_empty() {
        let now = task.clock.now().wall;
        show(keys(handle, &group, &store, there, identities, now).await);
    }
}

fn reached(group: &str, probed: &Probed, there: bool) -> Item {
    let what = if there { "a repository" } else { "empty; the first backup makes it a repository" };
    Item::new(group, "reach", format!("{}: {what}", probed.place))
}

/// Whether encrypting works, and whether the keys at hand open what was encrypted.
async fn keys(
    handle: &Handle,
    group: &str,
    store: &Arc<dyn Store>,
    there: bool,
    identities: Option<&Identities>,
    now: Timestamp,
) -> Item {
    let recipients = handle.recipients();
    let item = Item::new(
        group,
        "encryption",
        format!("to {recipients}; a probe was encrypted and decrypted"),
    );
    if let Err(error) = encrypt::prove(recipients) {
        let what = format!("it is to be encrypted, and that does not work: {}", chain(&error));
        return item.with(vec![found(Severity::Critical, what, "look at `encrypt_to`")]);
    }
    let Some(identities) = identities else {
        let mut item = item;
        item.text.push_str("; whether anybody has the key is not known: --identity FILE tries it");
        return item;
    };
    if !identities.fit(recipients) {
        let what = "none of the keys belongs to any of its recipients".to_owned();
        let hint = "what is written now can be read with other keys only: do you have them?";
        return item.with(vec![found(Severity::Critical, what, hint)]);
    }
    match opened(handle, store, there, (identities, now)).await {
        Ok(None) => {
            let mut item = item;
            item.text.push_str("; the key fits; nothing encrypted is stored yet");
            item
        }
        Ok(Some((id, true))) => {
            let text = format!("{}; the key opens the newest backup, {id}", item.text);
            Item { text, ..item }
        }
        Ok(Some((id, false))) => {
            let what = format!("the keys do not open the newest backup, {id}");
            let hint = "was it made for other recipients (`pgkeep show ID`), or is it damaged?";
            item.with(vec![found(Severity::Critical, what, hint)])
        }
        Err(failure) => {
            let Failure { what, hint, .. } = failure;
            let finding = Finding::new(KEYS, Severity::Critical, what);
            item.with(vec![Finding { hint, ..finding }])
        }
    }
}

fn found(severity: Severity, what: String, hint: &str) -> Finding {
    Found::new(severity, what, hint).named(KEYS)
}

/// The newest backup that is encrypted, and whether the keys open its beginning.
async fn opened(
    handle: &Handle,
    store: &Arc<dyn Store>,
    there: bool,
    (identities, now): (&Identities, Timestamp),
) -> Result<Option<(String, bool)>, Failure> {
    if !there {
        return Ok(None);
    }
    let fail = |error: StoreError| error.into_failure("look for an encrypted backup");
    let repository = Repository::open(handle.name().clone(), Arc::clone(store), false).await;
    let repository = repository.map_err(fail)?;
    let found = newest(&repository, now).await.map_err(fail)?;
    let Some((listed, name)) = found else { return Ok(None) };
    let stream = repository.read(&listed.series, &listed.id, &name, Some(0..BEGINNING)).await;
    let mut stream = stream.map_err(fail)?;
    let mut beginning = BytesMut::new();
    while let Some(piece) = stream.try_next().await.map_err(fail)? {
        beginning.extend_from_slice(&piece);
    }
    Ok(Some((listed.id.to_string(), identities.open(&beginning))))
}

/// The newest backup with an encrypted object, and that object's name.
///
/// # Errors
/// The store's, and where none of those that there are can be read whole.
pub(in crate::daemon) async fn newest(
    repository: &Repository,
    now: Timestamp,
) -> Result<Option<(Listed, String)>, StoreError> {
    let mut newest = Newest::new(Criteria::default(), now);
    let mut entries = repository.list(&Within::All);
    while let Some(entry) = entries.try_next().await? {
        if let Entry::Backup(listed) = entry
            && encrypted(&listed).is_some()
        {
            newest.take(listed);
        }
    }
    let mut problem = None;
    while let Some((listed, Examined { verdict, .. })) = newest.next(repository).await? {
        let error = match verdict {
            Verdict::Whole { .. } => return Ok(encrypted(&listed).map(|name| (listed, name))),
            Verdict::Refused(error) => error,
            Verdict::Damaged(what) => {
                let doing = format!("read backup {}", listed.id);
                StoreError::new(StoreErrorKind::Damaged, doing, format!("it {what}"))
            }
        };
        problem.get_or_insert(error);
    }
    problem.map_or(Ok(None), Err)
}

fn encrypted(listed: &Listed) -> Option<String> {
    let is_data = |name: &String| name.ends_with(".zst.age") && !name.starts_with("index.");
    listed.objects.iter().map(|object| &object.name).find(|name| is_data(name)).cloned()
}
