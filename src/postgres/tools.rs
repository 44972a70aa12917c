//! Which client programs are installed, and which fit a server.
//!
//! pg_dump refuses a server of a newer major version, and what a newer pg_dump writes an older
//! pg_restore may not read: the server's own major is best, the nearest newer one is second best.
//! Programs that others could replace are not run.
//!
//! What can still go wrong: a package upgrade between the choice and the start.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fmt, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;

use crate::{
    domain::failure::{Class, Failure, chain},
    sys::{
        process::{RunError, Spec, run_captured},
        trust::check_program,
    },
};

/// The program that tells the version of its folder.
const PROBE: &str = "pg_dump";
/// Folders with a folder for each version: Debian's packages and PGDG's for Red Hat.
const VERSIONED: [(&str, &str); 2] = [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")];
/// Where a build of one's own goes.
const OWN_BUILD: &str = "/usr/local/pgsql/bin";
/// Debian's programs in /usr/bin are links to a script that picks a version by its own rules.
const WRAPPER: &str = "pg_wrapper";
/// `--version` is one short line, in bytes.
const VERSION_MAX: usize = 4096;
/// How long `--version` may take.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// A version of a program: `15.18`, `18beta1` (minor 0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    /// Minor version; none for betas and the like, which sort below all releases.
    pub minor: Option<u32>,
    /// What `--version` printed after the name: `15.18 (Debian 15.18-0+deb12u1)`.
    pub text: String,
}

impl Version {
    /// Reads the first line of `--version`: `pg_dump (PostgreSQL) 15.18 (Debian …)`.
    pub fn parse(output: &str) -> Option<Self> {
        let text = output.lines().next()?.split_once(") ")?.1.trim();
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (major, rest) = text.split_at(digits(text));
        let minor = rest.strip_prefix('.').map(|rest| &rest[..digits(rest)]);
        let minor = minor.and_then(|minor| minor.parse().ok());
        Some(Self { major: major.parse().ok()?, minor, text: text.to_owned() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// A folder with client programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    pub dir: PathBuf,
    pub version: Version,
}

impl Installed {
    /// A program of the folder, checked to be there and safe to run.
    pub fn program(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.dir.join(name);
        let doing = format!("look for {name}");
        if !is_program(&path) {
            let what = format!("{} is missing", path.display());
            return Err(Failure::new(Class::ToolMissing, doing, what)
                .hint(package_hint(self.version.major)));
        }
        check_program(&path).map_err(|error| {
            Failure::from_error(Class::ToolMissing, doing, &error)
                .hint("programs that others can replace are not run: correct owner and mode")
        })?;
        Ok(path)
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    pub found: Vec<Installed>,
    pub refused: Vec<(PathBuf, String)>,
}

/// Chooses the programs for a server: the newest of its own major version, else of the nearest
/// newer one.
pub fn choose(inventory: &Inventory, server_major: u32) -> Result<&Installed, Failure> {
    let fits = |tool: &&Installed| tool.version.major >= server_major;
    // Of the same version, the first that was found.
    let best = inventory
        .found
        .iter()
        .rev()
        .filter(fits)
        .max_by_key(|tool| (std::cmp::Reverse(tool.version.major), tool.version.minor));
    best.ok_or_else(|| refusal(inventory, server_major))
}

fn refusal(inventory: &Inventory, server_major: u32) -> Failure {
    let newest = inventory.found.iter().max_by_key(|tool| (tool.version.major, tool.version.minor));
    let (class, what) = match newest {
        Some(tool) => {
            let (dir, major) = (tool.dir.display(), tool.version.major);
            let what =
                format!("pg_dump {major} in {dir} is older than the server ({server_major})");
            (Class::ToolVersion, what)
        }
        None => (Class::ToolMissing, "there is no pg_dump".to_owned()),
    };
    let refused = inventory.refused.iter();
    let refused = refused.map(|(path, why)| format!("; {} was not used: {why}", path.display()));
    let what = what + &refused.collect::<String>();
    Failure::new(class, format!("choose programs for PostgreSQL {server_major}"), what)
        .hint(package_hint(server_major))
}

fn package_hint(major: u32) -> String {
    format!(
        "install postgresql-client-{major} (Debian, Ubuntu) or postgresql{major} (PGDG packages \
         for Red Hat), \
         or set bin_dir of the server to where PostgreSQL {major} or newer is"
    )
}

/// Finds programs, and remembers versions of files that have not changed.
#[derive(Debug, Default)]
pub struct Toolbox {
    known: Mutex<HashMap<PathBuf, (Stamp, Version)>>,
}

/// Changes when a file is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

impl Toolbox {
    /// Looks in `bin_dir` alone where it is given, else in the usual places and `path` (the
    /// variable `PATH`).
    ///
    /// # Errors
    /// Only where `cancel` was cancelled. A program that cannot be asked is among the refused.
    pub async fn look(
        &self,
        bin_dir: Option<&Path>,
        path: Option<&OsStr>,
        cancel: &CancellationToken,
    ) -> Result<Inventory, Failure> {
        let dirs = match bin_dir {
            Some(dir) => vec![dir.to_owned()],
            None => usual_places(path),
        };
        let mut inventory = Inventory::default();
        for dir in dirs {
            let program = dir.join(PROBE);
            if !is_program(&program) {
                if bin_dir.is_some() {
                    inventory.refused.push((program, "it is not there".to_owned()));
                }
                continue;
            }
            match self.version(&program, cancel).await {
                Ok(version) => inventory.found.push(Installed { dir, version }),
                Err(_) if cancel.is_cancelled() => {
                    let doing = "look for client programs";
                    return Err(Failure::new(Class::Interrupted, doing, "cancelled"));
                }
                Err(why) => inventory.refused.push((program, why)),
            }
        }
        Ok(inventory)
    }

    async fn version(&self, program: &Path, cancel: &CancellationToken) -> Result<Version, String> {
        check_program(program).map_err(|error| chain(&error))?;
        let stamp = Stamp::of(program).map_err(|error| error.to_string())?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(program).cloned();
        if let Some((then, version)) = known
            && then == stamp
        {
            return Ok(version);
        }
        let spec = Spec::new(program).args(["--version"]);
        let exit = run_captured(spec, VERSION_MAX, VERSION_TIMEOUT, cancel)
            .await
            .map_err(|error: RunError| chain(&error))?;
        let output = String::from_utf8_lossy(&exit.stdout);
        if !exit.success() {
            return Err(format!("its --version {}", exit.end));
        }
        let version = Version::parse(&output).ok_or("its --version prints no version")?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(program.to_owned(), (stamp, version.clone()));
        Ok(version)
    }
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self { inode: meta.ino(), length: meta.len(), modified: meta.modified().ok() })
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Folders in which programs may be, each once.
fn usual_places(path: Option<&OsStr>) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for (root, prefix) in VERSIONED {
        let names = fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
        let mut versions: Vec<PathBuf> = names
            .filter(|entry| {
                let name = entry.file_name();
                let rest = name.to_str().and_then(|name| name.strip_prefix(prefix));
                rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
            .map(|entry| entry.path().join("bin"))
            .collect();
        versions.sort();
        dirs.append(&mut versions);
    }
    dirs.push(PathBuf::from(OWN_BUILD));
    dirs.extend(
        path.map(std::env::split_paths).into_iter().flatten().filter(|dir| dir.is_absolute()),
    );
    let mut seen = Vec::new();
    dirs.retain(|dir| {
        let Ok(real) = fs::canonicalize(dir.join(PROBE)) else { return false };
        let wrapper = real.file_name() == Some(OsStr::new(WRAPPER));
        let fresh = !wrapper && !seen.contains(&real);
        seen.push(real);
        fresh
    });
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(text: &str) -> Installed {
        let version = Version::parse(&format!("pg_dump (PostgreSQL) {text}")).unwrap();
        Installed { dir: PathBuf::from(format!("/opt/{text}")), version }
    }

    fn inventory(texts: &[&str]) -> Inventory {
        let found = texts.iter().map(|text| installed(text)).collect();
        Inventory { found, refused: Vec::new() }
    }

    #[test]
    fn versions_are_read() {
        let version = Version::parse("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n");
        let version = version.unwrap();
        assert_eq!((version.major, version.minor), (15, Some(18)));
        assert_eq!(version.to_string(), "15.18 (Debian 15.18-0+deb12u1)");
        let beta = Version::parse("pg_dump (PostgreSQL) 19beta2").unwrap();
        assert_eq!((beta.major, beta.minor), (19, None));
        for bad in ["", "pg_dump", "pg_dump (PostgreSQL) x", "hello) world"] {
            assert_eq!(Version::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_servers_own_version_is_best_then_the_nearest_newer() {
        let cases: [(&[&str], u32, Option<&str>); 6] = [
            (&["17.1", "15.3", "15.10", "16.0"], 15, Some("15.10")),
            (&["18.0", "17.1", "13.0"], 16, Some("17.1")),
            (&["15.18"], 16, None),
            (&[], 16, None),
            (&["16beta1", "16.0"], 16, Some("16.0")),
            (&["16beta1", "17.0"], 16, Some("16beta1")),
        ];
        for (texts, server, expected) in cases {
            let inventory = inventory(texts);
            let chosen = choose(&inventory, server).ok().map(|tool| tool.version.text.as_str());
            assert_eq!(chosen, expected, "{texts:?} for {server}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_install() {
        let failure = choose(&inventory(&["15.18"]), 17).unwrap_err();
        assert_eq!(failure.class, Class::ToolVersion);
        assert!(failure.what.contains("pg_dump 15 in /opt/15.18 is older than the server (17)"));
        assert!(failure.hint.unwrap().contains("postgresql-client-17"));
        let nothing = Inventory {
            refused: vec![("/x/pg_dump".into(), "it is writable by others".into())],
            ..Inventory::default()
        };
        let failure = choose(&nothing, 17).unwrap_err();
        assert_eq!(failure.class, Class::ToolMissing);
        assert!(failure.what.contains("writable by others"));
    }

    fn write_tool(dir: &Path, script: &str) {
        // Written through a rename: a file that is open for writing cannot be executed.
        crate::sys::files::write_atomic(&dir.join(PROBE), script.as_bytes(), 0o755).unwrap();
    }

    #[tokio::test]
    async fn a_folder_is_asked_again_only_when_its_program_changed() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let script = |version: &str| {
            format!("#!/bin/sh\necho x >> {}\necho 'pg_dump (Fake) {version}'\n", count.display())
        };
        let (toolbox, none) = (Toolbox::default(), CancellationToken::new());
        write_tool(dir.path(), &script("15.1"));
        for _ in 0..2 {
            let inventory = toolbox.look(Some(dir.path()), None, &none).await.unwrap();
            assert_eq!(inventory.found[0].version.major, 15, "{inventory:?}");
        }
        assert_eq!(fs::read_to_string(&count).unwrap().lines().count(), 1);
        write_tool(dir.path(), &script("16.1"));
        let inventory = toolbox.look(Some(dir.path()), None, &none).await.unwrap();
        assert_eq!(inventory.found[0].version.major, 16);
        assert!(inventory.found[0].program("pg_dumpall").is_err());
        assert!(inventory.found[0].program("pg_dump").is_ok());
    }

    #[tokio::test]
    async fn exposed_and_broken_programs_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (toolbox, none) = (Toolbox::default(), CancellationToken::new());
        let look = async || toolbox.look(Some(dir.path()), None, &none).await.unwrap();
        assert_eq!(look().await.refused[0].1, "it is not there");
        write_tool(dir.path(), "#!/bin/sh\nexit 3\n");
        assert_eq!(look().await.refused[0].1, "its --version exited with 3");
        write_tool(dir.path(), "#!/bin/sh\necho hello\n");
        assert_eq!(look().await.refused[0].1, "its --version prints no version");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let inventory = look().await;
        assert!(inventory.found.is_empty());
        assert!(inventory.refused[0].1.contains("may be written by others"), "{inventory:?}");
    }
}
