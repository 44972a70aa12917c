//! Which host this is: the owner of what it writes.
//!
//! The id is `/etc/machine-id`. Where there is none (containers, often), a random one is made once
//! and kept in the state directory: it then follows that directory instead of the machine. A clone
//! made with its `/etc/machine-id` has the id of its original, and is told from it by other things
//! (`domain::owner`).

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::domain::{manifest::Owner, owner::is_machine_id};

use super::files::{FileError, random_name, read_limited, write_atomic};

/// Where systemd and D-Bus keep the id (machine-id(5)).
const MACHINE_ID: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
/// Our own, in the state directory.
const OWN_MACHINE_ID: &str = "machine-id";
/// More than any such file holds, in bytes.
const FILE_MAX: u64 = 256;
/// pg_dump gave 170 to 240 MiB/s where it was measured: four threads of zstd -3 take more.
const WORKERS_MAX: usize = 4;

/// This host, as the owner of what it writes.
///
/// # Errors
/// Where there is no machine id and none can be kept in `state_dir`, or the one kept there is
/// damaged (a new one would make this host a stranger to its own backups).
pub fn owner(state_dir: &Path) -> Result<Owner, FileError> {
    let candidates = MACHINE_ID.map(PathBuf::from);
    Ok(Owner { machine_id: machine_id(&candidates, state_dir)?, host: hostname() })
}

/// Whether the id is the machine's, and not one that the state directory keeps.
pub fn has_machine_id() -> bool {
    of_machine(&MACHINE_ID.map(PathBuf::from)).is_some()
}

/// The name of the host, as the kernel has it.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of a user from /etc/passwd; none for users of directory services.
pub fn user_name(uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let of_uid = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    };
    passwd.lines().find_map(of_uid)
}

/// Random bits from the kernel.
///
/// # Errors
/// When the kernel gives none.
pub fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Threads that a dump compresses with unless told otherwise: the processors, four at most.
pub fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(WORKERS_MAX))
}

fn machine_id(candidates: &[PathBuf], state_dir: &Path) -> Result<String, FileError> {
    if let Some(id) = of_machine(candidates) {
        return Ok(id);
    }
    let own = state_dir.join(OWN_MACHINE_ID);
    match read_limited(&own, FILE_MAX) {
        Ok(bytes) => parse(&bytes).ok_or_else(|| {
            let what = "it is not a machine id (32 hexadecimal digits)";
            FileError::at("use", &own)(std::io::Error::new(std::io::ErrorKind::InvalidData, what))
        }),
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
            let half = || random_name().map_err(FileError::at("make an id for", &own));
            let id = half()? + &half()?;
            write_atomic(&own, format!("{id}\n").as_bytes(), 0o600)?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

/// An unreadable or unfinished file ("uninitialized" during the first boot) is as good as none.
fn of_machine(candidates: &[PathBuf]) -> Option<String> {
    candidates.iter().find_map(|path| parse(&read_limited(path, FILE_MAX).ok()?))
}

fn parse(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end();
    is_machine_id(text).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_id_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("etc");
        std::fs::write(&file, "0f1e2d3c4b5a69788796a5b4c3d2e1f0\n").unwrap();
        let id = machine_id(&[dir.path().join("none"), file], dir.path()).unwrap();
        assert_eq!(id, "0f1e2d3c4b5a69788796a5b4c3d2e1f0");
        assert!(!dir.path().join(OWN_MACHINE_ID).exists());
    }

    #[test]
    fn without_one_an_id_is_made_once_and_damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let unfinished = dir.path().join("etc");
        std::fs::write(&unfinished, "uninitialized\n").unwrap();
        let candidates = [unfinished];
        let id = machine_id(&candidates, dir.path()).unwrap();
        assert!(is_machine_id(&id));
        assert_eq!(machine_id(&candidates, dir.path()).unwrap(), id);
        std::fs::write(dir.path().join(OWN_MACHINE_ID), "x").unwrap();
        assert!(machine_id(&candidates, dir.path()).is_err());
        assert!(machine_id(&candidates, Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn this_host_has_a_name() {
        assert!(!hostname().is_empty());
    }
}
