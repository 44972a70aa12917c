//! The seeded data directory that every test's cluster is a copy of.
//!
//! It is made once per PostgreSQL version and seed, under cargo's folder for test data, behind a
//! file lock: nextest runs a process per test. All clusters that come from one template have the
//! same system identifier, as clones of a host have.

use std::{
    fmt::Write,
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

use super::{
    postgres::{APP, Cluster, HOSTILE, PASSWORD, SUPERUSER},
    process::{command, must},
};

/// What an administrator runs, as it is; with the right that the end-to-end probe of WAL archiving takes.
const KEEPER_SQL: &str =
    concat!("\\set switch_wal yes\n", include_str!("../../../packaging/sql/role.sql"));
const ROLES_SQL: &str = include_str!("../../../packaging/demo/roles.sql");
const APP_SQL: &str = include_str!("../../../packaging/demo/app.sql");
const HOSTILE_SQL: &str = include_str!("../../../packaging/demo/hostile.sql");
/// Rows of `shop.customers`: some thousand orders, a dump in a fraction of a second.
const CUSTOMERS: u32 = 2000;
/// Changed when a template of the same seed is made another way.
const RECIPE: &str = "3";

/// The account that PostgreSQL runs under where the tests run as root: it refuses root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The account to change to; none where the tests do not run as root.
    pub(crate) fn for_server() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        ["postgres", "nobody"].into_iter().find_map(Self::by_name)
    }

    fn by_name(name: &str) -> Option<Self> {
        let id = |flag| {
            let output = super::process::run(command("id").args([flag, name]), "");
            (output.code == 0).then(|| output.text().trim().parse().unwrap())
        };
        Some(Self { uid: id("-u")?, gid: id("-g")? })
    }

    /// Makes a path the account's own.
    pub(crate) fn own(self, path: &Path) {
        chown(path, Some(self.uid), Some(self.gid)).unwrap();
    }
}

/// A program of the server's side: under the unprivileged account, in a folder that it may enter.
pub(crate) fn server_command(program: &Path) -> Command {
    let mut command = command(program);
    command.current_dir("/");
    if let Some(account) = Account::for_server() {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// Copies the data directory of the template of that version to `to`; makes it first if needed.
pub(crate) fn copy_to(bin_dir: &Path, seeded: bool, to: &Path) {
    copy(&template(bin_dir, seeded), to);
}

fn copy(from: &Path, to: &Path) {
    must(command("cp").args(["-a", "--reflink=auto", "--"]).arg(from).arg(to));
}

fn template(bin_dir: &Path, seeded: bool) -> PathBuf {
    let version = must(command(bin_dir.join("postgres")).arg("--version"));
    let mut hash = Sha256::new();
    let customers = CUSTOMERS.to_string();
    for part in [RECIPE, &version, KEEPER_SQL, ROLES_SQL, APP_SQL, HOSTILE_SQL, &customers] {
        hash.update(part);
    }
    let mut name = format!("pg-template-{}-", if seeded { "seeded" } else { "empty" });
    for byte in hash.finalize().iter().take(8) {
        write!(name, "{byte:02x}").unwrap();
    }
    if let Some(account) = Account::for_server() {
        write!(name, "-{}", account.uid).unwrap();
    }

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(folder).unwrap();
    let lock = fs::File::create(folder.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let ready = folder.join(&name);
    if !ready.exists() {
        make(bin_dir, seeded, &ready);
    }
    ready
}

/// Makes a template under a name of its own and puts it in place whole.
#[expect(clippy::disallowed_methods, reason = "a template lost in a crash is made again")]
fn make(bin_dir: &Path, seeded: bool, ready: &Path) {
    let partial = ready.with_extension("partial");
    drop(fs::remove_dir_all(&partial));

    // Not under cargo's folder: the unprivileged account may have no way in there.
    let mut cluster = Cluster::initdb(bin_dir);
    cluster.psql("postgres", &format!("ALTER ROLE {SUPERUSER} PASSWORD '{PASSWORD}'"));
    if seeded {
        seed(&cluster);
    }
    cluster.psql("postgres", KEEPER_SQL);
    cluster.stop();
    copy(&cluster.data_dir(), &partial);
    fs::rename(&partial, ready).unwrap();
}

fn seed(cluster: &Cluster) {
    cluster.psql("postgres", ROLES_SQL);
    cluster.psql(
        "postgres",
        &format!("CREATE DATABASE {APP} OWNER shop_owner; COMMENT ON DATABASE {APP} IS 'The shop'"),
    );
    // Another collation than the template databases have: a restore has to ask for it.
    cluster.psql(
        "postgres",
        &format!(
            "CREATE DATABASE \"{}\" TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'",
            HOSTILE.replace('"', "\"\"")
        ),
    );
    cluster.psql(APP, &format!("\\set customers {CUSTOMERS}\n{APP_SQL}"));
    cluster.psql(HOSTILE, HOSTILE_SQL);
    for database in [APP, HOSTILE] {
        cluster.psql(database, "VACUUM ANALYZE");
    }
}
