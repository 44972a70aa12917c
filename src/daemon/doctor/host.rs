//! This host: the state directory, the daemon and its address, and whether anything would ever start.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use super::Item;
use crate::{
    checks::doctor::{
        self,
        host::{Daemon, HostView, StateTrouble, UnitView},
    },
    daemon::{
        control::{ConnectError, ControlClient, SOCKET_NAME},
        serve::ADDRESS_FILE,
        table::Table,
    },
    domain::failure::chain,
    sys::{trust, unit::Unit},
};

/// How long the listener for metrics may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Looks at this host.
pub(super) async fn look(table: &Table, config: &Path, show: &mut impl FnMut(Item)) {
    let daemon = daemon(&table.daemon.runtime_dir).await;
    let enabled = table.jobs.values().filter(|job| job.common.enabled);
    let untriggered =
        enabled.clone().filter(|job| job.schedule.is_none() && job.common.after.is_empty());
    let view = HostView {
        state_dir: (table.daemon.state_dir.clone(), state(&table.daemon.state_dir)),
        metrics: metrics(table, &daemon).await,
        daemon,
        unit: unit(table, config).await,
        jobs: enabled.count(),
        untriggered: untriggered.map(|job| job.common.name.clone()).collect(),
    };
    for looked in doctor::look(doctor::host::LINES, &view) {
        show(Item::of("this host", looked));
    }
}

fn state(path: &Path) -> Result<(), StateTrouble> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StateTrouble::Missing),
        Err(error) => return Err(StateTrouble::Unusable(error.to_string())),
    };
    if !meta.is_dir() {
        return Err(StateTrouble::Unusable("it is no folder".to_owned()));
    }
    // What lies there is private by its own mode.
    if meta.mode() & 0o022 != 0 {
        return Err(StateTrouble::Exposed { mode: meta.mode() & 0o777 });
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(StateTrouble::Foreign { owner: meta.uid() });
    }
    trust::check_storage(path).map_err(|error| StateTrouble::Unusable(error.to_string()))?;
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|errno| StateTrouble::Unusable(io::Error::from(errno).to_string()))
}

/// What the unit of this configuration keeps its daemon from.
async fn unit(table: &Table, config: &Path) -> Option<UnitView> {
    let config = std::path::absolute(config).ok()?;
    let unit = Unit::of(&config).await?;
    let (state, runtime) = (&table.daemon.state_dir, &table.daemon.runtime_dir);
    let own = [("the state directory", state), ("the runtime directory", runtime)];
    let own = own.map(|(what, path)| (what.to_owned(), path.clone())).into_iter();
    let repositories = table.repositories.iter().filter_map(|(name, handle)| {
        Some((format!("repository {name}"), handle.folder()?.to_owned()))
    });
    let closed = own.chain(repositories).filter_map(|(what, path)| {
        let barrier = unit.barrier(&path)?;
        Some((what, path, barrier))
    });
    Some(UnitView { closed: closed.collect(), name: unit.name.clone() })
}

async fn daemon(runtime_dir: &Path) -> Daemon {
    match ControlClient::connect(&runtime_dir.join(SOCKET_NAME)).await {
        Ok(_) => Daemon::Up,
        Err(ConnectError::NotRunning(_)) => Daemon::Down,
        Err(error) => Daemon::Closed(chain(&error)),
    }
}

/// The address of the metrics: reached where a daemon is up, else tried whether it is free.
async fn metrics(table: &Table, daemon: &Daemon) -> Option<(SocketAddr, Result<(), String>)> {
    let configured = table.daemon.listen?;
    if *daemon == Daemon::Down {
        let free = TcpListener::bind(configured).map(drop).map_err(|error| error.to_string());
        return Some((configured, free));
    }
    // Port 0 is given by the kernel.
    let got = fs::read_to_string(table.daemon.runtime_dir.join(ADDRESS_FILE));
    let address = got.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(configured);
    let reached = tokio::time::timeout(ANSWER, tokio::net::TcpStream::connect(address)).await;
    let reached = match reached {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
    };
    Some((address, reached))
}
