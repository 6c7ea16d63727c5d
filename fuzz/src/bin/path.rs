//! Names and paths: what is taken cannot leave the exported folder, and joins back to itself.
#![no_main]

use lacuna_transport::path::{NodeName, NodePath};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for path in [NodePath::new(bytes), NodePath::parse(bytes)]
        .into_iter()
        .flatten()
    {
        assert_eq!(NodePath::new(path.as_bytes()).as_ref(), Ok(&path));
        let names = path
            .as_bytes()
            .split(|byte| *byte == b'/')
            .filter(|_| !path.is_root());
        let mut again = NodePath::root();
        for name in names {
            assert!(name != b".." && name != b"." && !name.contains(&0));
            let name = NodeName::new(name).expect("a path is made of names");
            again = again.join(&name).expect("no longer than the path");
        }
        assert_eq!(again, path);
    }
});
