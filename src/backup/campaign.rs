//! A lying store as a model check: seeded stories of dump, copy, prune, sweep, acknowledging, kill and
//! restart over stores whose listings omit, repeat, cut, reorder, loop or are stale, with a recorder of
//! the truth below.
//!
//! At each request: no backup goes but by a plan that the truth would have made as well, and nothing
//! beside its manifest; a manifest is put when all that it names is there; data without one that somebody
//! may be writing stays. Of each step: what is reported as stored is whole, what is called damaged or gone
//! is so, and it asks for no longer than it may. In the end, with listings that tell the truth, everything
//! is brought, and nothing half is left.
//!
//! `PGKEEP_SEED` is the seed of the first story; with `PGKEEP_LONG` there are more. One that fails says the
//! seed that repeats it alone, with `PGKEEP_ROUNDS=1`.

mod plot;
mod shelf;
mod truth;
mod world;

use std::{collections::BTreeMap, env};

use self::world::{STEPS, World};

/// Stories where nothing else is said, and in a long run.
const STORIES: u64 = 66;
const STORIES_LONG: u64 = 10_000;

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test]
async fn no_listing_makes_a_backup_go_that_the_truth_keeps() {
    let long = env::var_os("PGKEEP_LONG").is_some();
    let first = number("PGKEEP_SEED", 1);
    let stories = number("PGKEEP_ROUNDS", if long { STORIES_LONG } else { STORIES });
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for seed in first..first + stories {
        let mut world = World::new(seed).await;
        let story = std::panic::AssertUnwindSafe(async {
            for _ in 0..STEPS {
                world.step().await;
            }
            world.end().await;
        });
        let ended = futures_util::FutureExt::catch_unwind(story).await;
        if let Err(panic) = ended {
            eprintln!("{:#?}", world.told);
            eprintln!("repeat it with PGKEEP_SEED={seed} PGKEEP_ROUNDS=1");
            std::panic::resume_unwind(panic);
        }
        for line in world.told {
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_owned();
            *counts.entry(verb).or_default() += 1;
        }
    }
    for verb in ["store", "bring", "carry", "sweep", "killed", "acknowledge", "lose", "somebody"] {
        assert!(counts.contains_key(verb), "no {verb} in {stories} stories: {counts:?}");
    }
}
