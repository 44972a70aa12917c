//! One server: does it answer, is its clock right, do programs fit, and would each database that a job
//! chooses be dumped whole?

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::{Backing, Item};
use crate::{
    backup::preflight::{self, Preflight},
    checks::{
        doctor::{self, server::ServerView},
        look as look_with,
        preflight::{Accepted, GLOBALS, judge},
    },
    daemon::table::Table,
    domain::{
        failure::{During, Failure, IntoFailure},
        finding::Finding,
        name::{DatabaseName, RepositoryName},
        pattern::Selection,
        protection::{Backed, Protection},
        scope::Scope,
    },
    postgres::{
        PgError, Server, Session,
        catalog::{self, Database, ServerFacts},
        notice::Notice,
        preflight::{Service, globals},
        scope,
    },
    sys::{clock::ahead, task::Task},
};

/// Bytes of the databases that go to each repository.
type Sizes = BTreeMap<RepositoryName, u64>;

/// What a server told.
struct Told {
    facts: ServerFacts,
    clock_ahead: SignedDuration,
    databases: Vec<Database>,
    service: Option<Service>,
    said: Vec<Notice>,
}

/// Looks at one server, and adds what its databases weigh.
pub(super) async fn look(
    server: &Server,
    table: &Table,
    backing: &[Backing],
    sizes: &mut Sizes,
    task: &Task,
    show: &mut impl FnMut(Item),
) {
    let group = format!("server {}", server.name());
    let (session, told) = match open(server, task).await {
        Ok(open) => open,
        Err(failure) => return show(Item::failed(&group, "connection", failure)),
    };
    let role = if told.facts.in_recovery { "a standby" } else { "a primary" };
    let at = format!(
        "PostgreSQL {} at {}, {role}, as role {}",
        told.facts.version,
        session.endpoint(),
        server.spec().user
    );
    show(Item::new(&group, "connection", at));
    maintenance(server, &group, task, show).await;
    let own: Vec<&Backing> =
        backing.iter().filter(|it| it.protects.server.name() == server.name()).collect();
    let programs = match server.tools(told.facts.major(), task).await {
        Ok(tools) => Some((tools.version.major, tools.dir.display().to_string())),
        Err(failure) => {
            show(Item::failed(&group, "programs", failure));
            None
        }
    };
    let chosen = choose(&own, &told.databases);
    let view = view(&told, programs, table, &chosen, server);
    for looked in doctor::look(doctor::server::LINES, &view) {
        show(Item::of(&group, looked));
    }
    for (backing, selection) in own.iter().zip(&chosen) {
        weigh(backing, selection, &told.databases, sizes);
        problems(&group, backing, selection, show);
        passwords(&group, backing, &session, task, show).await;
    }
    session.close().await;
    for Database { name, .. } in &told.databases {
        let chosen = own.iter().zip(&chosen).filter(|(_, it)| it.chosen.contains(name));
        let jobs: Vec<&Backing> = chosen.map(|(backing, _)| *backing).collect();
        if !jobs.is_empty() && !task.cancel.is_cancelled() {
            database(server, &group, name, &jobs, task, show).await;
        }
    }
}

/// A session at the server, and what it told.
async fn open(server: &Server, task: &Task) -> Result<(Session, Told), Failure> {
    let task = &task.doing(format!("look at server {}", server.name()));
    let session = server.connect(server.maintenance_database(), task).await?;
    match ask(&session, task).await {
        Ok(told) => Ok((session, told)),
        Err(error) => {
            session.close().await;
            Err(error.into_failure(task))
        }
    }
}

async fn ask(session: &Session, task: &Task) -> Result<Told, PgError> {
    let cancel = &task.cancel;
    let before = task.clock.now().wall;
    let facts = catalog::server_facts(session.queries(cancel)).await?;
    let after = task.clock.now().wall;
    Ok(Told {
        clock_ahead: ahead(facts.at, before, after, SignedDuration::ZERO),
        databases: catalog::databases(session.queries(cancel), true).await?,
        service: globals(session.queries(cancel), false).await?.service,
        facts,
        said: session.take_notices().0,
    })
}

/// The role for maintenance, where it is one of its own.
async fn maintenance(server: &Server, group: &str, task: &Task, show: &mut impl FnMut(Item)) {
    let role = server.maintenance_role();
    if role == server.spec().user {
        return;
    }
    let task = task.doing(format!("connect to server {} as role {role}", server.name()));
    match server.connect_for_maintenance(server.maintenance_database(), &task).await {
        Ok(session) => {
            session.close().await;
            show(Item::new(group, "maintenance", format!("role {role} is let in")));
        }
        Err(failure) => show(Item::failed(group, "maintenance", failure)),
    }
}

fn choose(own: &[&Backing], databases: &[Database]) -> Vec<Selection> {
    let candidates: Vec<_> = databases.iter().map(Database::candidate).collect();
    own.iter().map(|it| it.protects.patterns.select(&candidates)).collect()
}

fn view(
    told: &Told,
    programs: Option<(u32, String)>,
    table: &Table,
    chosen: &[Selection],
    server: &Server,
) -> ServerView {
    // Of all jobs, also those that are not looked at now.
    let all = table.jobs.values().filter(|job| job.common.enabled);
    let all = all.filter_map(|job| job.job.protects());
    let own: Vec<Backed> =
        all.filter(|it| it.server.name() == server.name()).map(|it| it.backed()).collect();
    let candidates: Vec<_> = told.databases.iter().map(Database::candidate).collect();
    let kept = |name: &&DatabaseName| {
        told.service.is_some_and(|service| service.databases.contains(&name.as_str()))
    };
    let mut kept_by_service: Vec<DatabaseName> =
        chosen.iter().flat_map(|it| &it.chosen).filter(kept).cloned().collect();
    kept_by_service.dedup();
    ServerView {
        facts: told.facts.clone(),
        clock_ahead: told.clock_ahead,
        programs,
        protection: (!own.is_empty()).then(|| Protection::of(&candidates, &own)),
        kept_by_service,
        service: told.service,
        said: told.said.clone(),
    }
}

fn weigh(backing: &Backing, selection: &Selection, databases: &[Database], sizes: &mut Sizes) {
    let chosen = databases.iter().filter(|it| selection.chosen.contains(&it.name));
    let bytes: u64 = chosen.filter_map(|it| it.size_bytes).sum();
    for repository in &backing.protects.repositories {
        *sizes.entry(repository.clone()).or_default() += bytes;
    }
}

/// Databases that a job names and the server does not have.
fn problems(group: &str, backing: &Backing, selection: &Selection, show: &mut impl FnMut(Item)) {
    for problem in &selection.problems {
        let failure = Failure::new(
            crate::domain::failure::Class::DatabaseGone,
            format!("choose the databases of job {}", backing.job.common.name),
            problem.to_string(),
        );
        let hint = "look at `databases` and `exclude` of the job, and at `psql -l`";
        show(Item::failed(group, "databases", failure.hint(hint)));
    }
}

/// Whether the globals can be dumped as the job wants them.
async fn passwords(
    group: &str,
    backing: &Backing,
    session: &Session,
    task: &Task,
    show: &mut impl FnMut(Item),
) {
    let Some(wanted) = backing.protects.globals else { return };
    let job = &backing.job.common.name;
    let label = format!("globals, job {job}");
    let facts = match globals(session.queries(&task.cancel), wanted).await {
        Ok(facts) => facts,
        Err(error) => {
            let failure = error.into_failure(format!("look at the globals for job {job}"));
            return show(Item::failed(group, label, failure));
        }
    };
    let text = if wanted { "roles with their passwords" } else { "roles without their passwords" };
    show(Item::new(group, label, text).with(look_with(GLOBALS, &facts)));
}

/// One database, for each job that dumps it.
async fn database(
    server: &Server,
    group: &str,
    name: &DatabaseName,
    jobs: &[&Backing],
    task: &Task,
    show: &mut impl FnMut(Item),
) {
    let task = task.doing(format!("look at database {name}"));
    let scopes: Vec<&Scope> = jobs.iter().map(|it| it.protects.scopes.of(name)).collect();
    let looked = preflight_of(server, name, &scopes, &task).await;
    for (at, backing) in jobs.iter().enumerate() {
        let label = format!("database {name}, job {}", backing.job.common.name);
        let (facts, all) = match &looked {
            Ok((Preflight { facts, .. }, all)) => (facts, all),
            Err(failure) => {
                show(Item::failed(group, label, failure.clone()));
                continue;
            }
        };
        let facts = facts.clone().within(&all[at]);
        let judged = judge(&facts, &backing.protects.accepted);
        let mut findings: Vec<Finding> =
            judged.refused.into_iter().map(|(_, finding)| finding).collect();
        let whole = findings.is_empty() && judged.left_out.is_empty();
        let mut text = match (findings.is_empty(), whole) {
            (true, true) => format!("role {} sees all of it", facts.role),
            (true, false) => "it would be dumped".to_owned(),
            (false, _) => "a dump of it is refused".to_owned(),
        };
        for left_out in &judged.left_out {
            text = format!("{text}; without {} ({})", left_out.what, left_out.reason);
        }
        findings.extend(judged.told);
        show(Item::new(group, label, text).with(findings));
    }
}

async fn preflight_of(
    server: &Server,
    name: &DatabaseName,
    scopes: &[&Scope],
    task: &Task,
) -> Result<(Preflight, Vec<Scope>), Failure> {
    let session = server.connect(name.as_str(), task).await?;
    let looked = whole(&session, scopes, task).await.during(task);
    session.close().await;
    looked
}

/// What a dump of everything would meet, and the scopes with the names of all partitions.
async fn whole(
    session: &Session,
    scopes: &[&Scope],
    task: &Task,
) -> Result<(Preflight, Vec<Scope>), PgError> {
    let looked = preflight::look(session, &Scope::default(), &Accepted::default(), task).await?;
    let mut all = Vec::new();
    for scope in scopes {
        all.push(scope::with_children(session.queries(&task.cancel), scope).await?);
    }
    Ok((looked, all))
}
