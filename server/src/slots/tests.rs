//! Places among those who share a question: stable, never shared, and given to who waits.

use super::*;
use crate::port::{PersonPlan, Store as _};
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
