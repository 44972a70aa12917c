//! The options of a `[repository.NAME]` of the kind `local`.

use std::{path::PathBuf, sync::Arc};

use super::{LIMITS, LocalOptions, LocalStore};
use crate::{
    config::{Diagnostics, Options},
    domain::units::ByteSize,
    repository::{
        handle::Opener,
        kinds::{Context, StoreKind},
        store::{Limits, Store},
    },
};

/// The kind's row in the table.
pub const KIND: StoreKind =
    StoreKind { name: "local", build, elsewhere: None, folder: Some(folder) };

/// Room that is left on the filesystem: pg_wal may share it.
const MIN_FREE: ByteSize = ByteSize::gib(1);

fn folder(o: &mut Options<'_>) -> Option<PathBuf> {
    Some(o.absolute_path("path", &mut Diagnostics::new())?.value)
}

fn build(o: &mut Options<'_>, _context: &Context, d: &mut Diagnostics) -> Option<(Opener, Limits)> {
    let min_free = o.take_or("min_free", MIN_FREE, d).bytes();
    let others_may_write = o.take_or("others_may_write", false, d);
    if o.given("path").is_none() {
        // Reported by `require`.
        o.require::<String>("path", d)?;
    }
    let path = o.absolute_path("path", d)?.value;
    let options = LocalOptions { path, min_free, others_may_write };
    // One for good: it counts the threads that hang in its filesystem.
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(options));
    let opener: Opener = Arc::new(move || {
        let store = Arc::clone(&store);
        Box::pin(async move { Ok(store) })
    });
    Some((opener, LIMITS))
}
