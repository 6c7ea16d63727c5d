//! The allow list: what parses, what is refused, what survives a crash and a neighbour.

use std::thread;

use proptest::prelude::*;

use super::*;

fn key(number: u8) -> KeyId {
    format!("sha256:{}", format!("{number:02x}").repeat(32))
        .parse()
        .unwrap()
}

#[test]
fn what_is_allowed_is_found_after_reloading() {
    let state = tempfile::tempdir().unwrap();
    assert_eq!(AllowList::load(state.path()).unwrap(), AllowList::default());
    AllowList::change(state.path(), |list| {
        list.allow(key(1), Some("one"), Access::ReadWrite)
    })
    .unwrap();
    AllowList::change(state.path(), |list| list.allow(key(2), None, Access::ReadOnly)).unwrap();
    let list = AllowList::load(state.path()).unwrap();
    assert_eq!(list.find(key(1)).unwrap().name, "one");
    assert_eq!(list.find(key(2)).unwrap().access, Access::ReadOnly);
    assert_eq!(list.find(key(2)).unwrap().name, "020202020202");
    assert_eq!(list.find(key(3)), None);
    // Again: a change of rights, the name stays.
    AllowList::change(state.path(), |list| list.allow(key(1), None, Access::ReadOnly)).unwrap();
    let list = AllowList::load(state.path()).unwrap();
    assert_eq!(list.entries().count(), 2);
    assert_eq!(list.find(key(1)).unwrap().access, Access::ReadOnly);
    assert_eq!(list.find(key(1)).unwrap().name, "one");
}

#[test]
fn clients_are_revoked_by_key_and_by_name() {
    let mut list = AllowList::default();
    list.allow(key(1), Some("one"), Access::ReadWrite).unwrap();
    list.allow(key(2), Some("two"), Access::ReadWrite).unwrap();
    assert_eq!(list.revoke("one").unwrap().key, key(1));
    assert_eq!(list.revoke(&key(2).to_string()).unwrap().name, "two");
    assert_eq!(list.revoke("two").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn bad_and_taken_names_are_refused() {
    let mut list = AllowList::default();
    list.allow(key(1), Some("one"), Access::ReadWrite).unwrap();
    for bad in [
        "one",
        "",
        "a b",
        "a\nb",
        "#x",
        &"n".repeat(65),
        &key(9).to_string(),
    ] {
        assert!(
            list.allow(key(2), Some(bad), Access::ReadWrite).is_err(),
            "{bad:?} was taken"
        );
    }
}

#[test]
fn a_corrupt_file_is_named_with_its_line_and_stays() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join(FILE_NAME);
    let good = format!("# clients\n{} rw one\n", key(1));
    for (bad, line) in [
        ("nonsense".to_owned(), 3),
        (format!("{} rw", key(2)), 3),
        (format!("{} rwx two", key(2)), 3),
        (format!("{} rw two extra", key(2)), 3),
        (format!("{} rw one", key(2)), 3),
        (format!("{} rw two", key(1)), 3),
        ("\n\nsha256:00 rw two".to_owned(), 5),
    ] {
        let text = format!("{good}{bad}\n");
        fs::write(&path, &text).unwrap();
        let error =
            AllowList::change(state.path(), |list| list.allow(key(5), None, Access::ReadWrite)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(
            error.to_string().contains(&format!("allow, line {line}:")),
            "{error}"
        );
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            text,
            "a corrupt file was overwritten"
        );
    }
    fs::write(&path, b"\xff\xfe").unwrap();
    assert_eq!(
        AllowList::load(state.path()).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[test]
fn comments_survive_a_change() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join(FILE_NAME);
    fs::write(&path, format!("# ours\n\n{} ro one\n# end\n", key(1))).unwrap();
    AllowList::change(state.path(), |list| {
        list.allow(key(2), Some("two"), Access::ReadWrite)
    })
    .unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        text,
        format!("# ours\n\n{} ro one\n# end\n{} rw two\n", key(1), key(2))
    );
}

#[test]
fn changes_at_once_all_happen() {
    let state = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        for number in 0..16 {
            let state = state.path();
            scope.spawn(move || {
                AllowList::change(state, |list| list.allow(key(number), None, Access::ReadWrite)).unwrap();
            });
        }
    });
    assert_eq!(AllowList::load(state.path()).unwrap().entries().count(), 16);
}

proptest! {
    #[test]
    fn any_text_is_an_error_or_renders_to_what_parses_to_it(text in "(sha256:[0-9a-f]{64}|rw|ro|[a-c# ]|\n){0,40}") {
        if let Ok(list) = AllowList::parse(&text) {
            prop_assert_eq!(AllowList::parse(&list.render()).unwrap(), list);
        }
    }
}
