//! Places among those who share a question: stable, never shared, and given to who waits.

use super::*;
use crate::port::{Evidence as _, Feeds as _, PersonPlan, Store as _};
use crate::store::SqliteStore;
use cpis_protocol::flag::FlagKind;
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::text::Text;

fn number(n: u64) -> NhsNumber {
    let nine = (999_000_000..).filter_map(|nine| Some(nine * 10 + NhsNumber::check_digit(nine)?));
    NhsNumber::new(nine.clone().nth(usize::try_from(n).unwrap()).unwrap()).unwrap()
}

fn child(n: u64) -> Person {
    let plan =
        PersonPlan { kind: FlagKind::Cpp, authority: 1, start: None, end: None, due: None, visible_until_min: None };
    Person {
        number: number(n),
        birth: Date::new(2015, 3, 4).unwrap(),
        surname: "Smith".into(),
        given: "Oliver".into(),
        postcode: String::new(),
        restricted: false,
        plans: vec![plan],
    }
}

/// The place of each of `persons` by name.
fn seat(store: &SqliteStore, id: PersonId, person: Option<&Person>) -> (Vec<u32>, BTreeSet<PersonId>) {
    let storage = Key::from_bytes([7; 32]);
    let feed = Text::lossy("E08000001");
    let queries = person.map(questions).unwrap_or_default();
    let mut moved = BTreeSet::new();
    let seats = store.write::<_, StoreError>(|tx| seats(tx, &storage, id, feed, &queries, &mut moved)).unwrap();
    (seats, moved)
}

#[test]
fn places_are_stable_and_the_next_who_waits_moves_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::create(&dir.path().join("test.db")).unwrap();
    let children: Vec<Person> = (0..10).map(child).collect();
    for (id, child) in (1..).zip(&children) {
        let (seats, moved) = seat(&store, id, Some(child));
        assert_eq!((seats, moved.len()), (vec![0, u32::try_from(id).unwrap() - 1], 0));
    }
    // Again: the same places.
    assert_eq!(seat(&store, 3, Some(&children[2])).0, [0, 2]);
    assert_eq!(seat(&store, 10, Some(&children[9])).0, [0, 9]);
    // The third leaves: the others stay where they are, and the first who waits is to be sealed again, in that place.
    let (seats, moved) = seat(&store, 3, None);
    assert_eq!((seats, moved), (vec![], BTreeSet::from([9])));
    assert_eq!(seat(&store, 9, Some(&children[8])).0, [0, 2]);
    assert_eq!(seat(&store, 4, Some(&children[3])).0, [0, 3]);
    // Another name leaves the place as well.
    let renamed = Person { surname: "Jones".into(), ..child(0) };
    let (seats, moved) = seat(&store, 1, Some(&renamed));
    assert_eq!((seats, moved), (vec![0, 0], BTreeSet::from([10])));
}

#[test]
fn who_waits_is_told_until_a_place_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::create(&dir.path().join("test.db")).unwrap();
    let (a, b) = (Text::lossy("A"), Text::lossy("B"));
    let mut crowd = Crowd::default();
    let tell = |crowd: &Crowd, gseq| store.write::<_, StoreError>(|tx| crowd.tell(tx, gseq, 5)).unwrap();
    let alerts = || store.read::<_, StoreError>(|tx| tx.alerts(true)).unwrap();
    crowd.seated(1, a, &[0, 7, 0]);
    assert_eq!((tell(&crowd, 1), alerts().len()), (0, 0), "the eighth has a place");
    crowd.seated(2, a, &[0, 8, 0]);
    crowd.seated(2, b, &[0, 9]);
    crowd.seated(3, a, &[0, 300]);
    assert_eq!((tell(&crowd, 2), tell(&crowd, 2)), (2, 2));
    let rows: Vec<_> = alerts().into_iter().map(|row| (row.kind, row.device, row.at_ms, row.count)).collect();
    assert_eq!(rows, [(AlertKind::Crowded, None, 5, 2)]);
    crowd.seated(2, a, &[0, 3, 0]);
    crowd.seated(3, a, &[]);
    assert_eq!(tell(&crowd, 3), 1, "in the other feed it waits still");
    crowd.seated(2, b, &[0, 1]);
    assert_eq!((tell(&crowd, 4), alerts().len()), (0, 2));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 48, ..Default::default() })]

    /// Whoever comes and goes, in whatever groups: nobody waits beside a free place, and no place is given twice.
    #[test]
    fn nobody_waits_beside_a_free_place(
        groups in proptest::collection::vec(proptest::collection::btree_set(1i64..14, 1..6), 1..12)
    ) {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let store = SqliteStore::create(&dir.path().join("test.db")).unwrap();
        let (storage, feed) = (Key::from_bytes([7; 32]), Text::lossy("E08000001"));
        let mut present = BTreeSet::new();
        for group in groups {
            let mut crowd = Crowd::default();
            let seat = |id: PersonId, present: &BTreeSet<PersonId>, crowd: &mut Crowd| {
                let person = child(id.unsigned_abs());
                let queries = if present.contains(&id) { questions(&person) } else { Vec::new() };
                let seats = store.write::<_, StoreError>(|tx| seats(tx, &storage, id, feed, &queries, &mut crowd.moved));
                seats.unwrap()
            };
            for id in group {
                if !present.remove(&id) {
                    present.insert(id);
                }
                seat(id, &present, &mut crowd);
            }
            while let Some(id) = crowd.moved.pop_first() {
                seat(id, &present, &mut crowd);
            }
            // Only read: asking for a place would find one.
            let stored = |id: &PersonId| store.read::<_, StoreError>(|tx| tx.seats(*id, feed)).unwrap()[0].1;
            let places: BTreeSet<u32> = present.iter().map(stored).collect();
            proptest::prop_assert_eq!(places.len(), present.len());
            let found = places.iter().filter(|seat| **seat < u32::from(SHARED_TOKEN_MAX)).count();
            proptest::prop_assert_eq!(found, present.len().min(usize::from(SHARED_TOKEN_MAX)));
        }
    }
}
