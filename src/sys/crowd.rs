//! How many connections are open at once, in all and of one peer. Where there are too many, the oldest
//! that has not said what it wants goes: whoever is quick always gets in, however many dawdle.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What connections there may be.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub all: usize,
    pub of_one: usize,
    /// Whether one that is being served may go as well, where nobody dawdles.
    pub served_go: bool,
    /// How long a new one has to say what it wants before it dawdles. Who comes where all are new waits for
    /// so long.
    pub moment: Duration,
}

/// The connections under way; `K` tells peers apart.
#[derive(Debug)]
pub struct Crowd<K> {
    room: Room,
    /// The oldest first.
    inside: Mutex<VecDeque<Guest<K>>>,
}

#[derive(Debug)]
struct Guest<K> {
    peer: K,
    since: Instant,
    served: Arc<AtomicBool>,
    end: CancellationToken,
}

/// The place of one connection, while this lives.
#[derive(Debug)]
pub struct Place {
    served: Arc<AtomicBool>,
    end: CancellationToken,
}

impl Place {
    /// Says that the peer has said what it wants.
    pub fn served(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    /// Ready when another one needs the place.
    pub async fn lost(&self) {
        self.end.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl<K: Ord + Copy> Crowd<K> {
    /// Nobody is inside.
    pub fn new(room: Room) -> Self {
        Self { room, inside: Mutex::default() }
    }

    /// A place for a new connection; none where there is no room and nobody to go, for longer than the
    /// moment that new ones have.
    pub async fn admit(&self, peer: K) -> Option<Place> {
        let place = self.place(peer);
        if place.is_some() || self.room.moment.is_zero() {
            return place;
        }
        tokio::time::sleep(self.room.moment).await;
        self.place(peer)
    }

    fn place(&self, peer: K) -> Option<Place> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.retain(|guest| !guest.end.is_cancelled());
        let of = |inside: &VecDeque<Guest<K>>, peer| {
            inside.iter().filter(|guest| guest.peer == peer).count()
        };
        let crowded = if of(&inside, peer) >= self.room.of_one {
            Some(peer)
        } else if inside.len() >= self.room.all {
            inside.iter().map(|guest| guest.peer).max_by_key(|peer| (of(&inside, *peer), *peer))
        } else {
            None
        };
        if let Some(crowded) = crowded {
            let leaves = |served: bool| {
                inside.iter().position(|guest| {
                    guest.peer == crowded
                        && guest.since.elapsed() >= self.room.moment
                        && (served || !guest.served.load(Ordering::Relaxed))
                })
            };
            let at = leaves(false).or_else(|| leaves(true).filter(|_| self.room.served_go))?;
            if let Some(guest) = inside.remove(at) {
                guest.end.cancel();
            }
        }
        let (served, end) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let since = Instant::now();
        inside.push_back(Guest { peer, since, served: Arc::clone(&served), end: end.clone() });
        Some(Place { served, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(place: &Place) -> bool {
        place.end.is_cancelled()
    }

    #[test]
    fn the_oldest_that_dawdles_makes_room() {
        let crowd =
            Crowd::new(Room { all: 4, of_one: 2, served_go: false, moment: Duration::ZERO });
        let [first, second] = [(); 2].map(|()| crowd.place(1).unwrap());
        first.served();
        let third = crowd.place(1).unwrap();
        assert!(!gone(&first) && gone(&second) && !gone(&third));
        third.served();
        assert!(crowd.place(1).is_none(), "both are being served");
        drop(first);
        let fourth = crowd.place(1).unwrap();
        let others = [2, 3].map(|peer| crowd.place(peer).unwrap());
        assert!(!gone(&fourth), "there was room for four");
        let fifth = crowd.place(4).unwrap();
        assert!(gone(&fourth), "of the peer that has most");
        assert!(!others.iter().any(gone) && !gone(&third) && !gone(&fifth));
    }

    #[test]
    fn one_that_is_served_goes_where_it_may() {
        let crowd = Crowd::new(Room { all: 4, of_one: 1, served_go: true, moment: Duration::ZERO });
        let first = crowd.place(1).unwrap();
        first.served();
        let second = crowd.place(1).unwrap();
        assert!(gone(&first) && !gone(&second));
    }
}
