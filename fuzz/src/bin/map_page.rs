//! Pages of a map: what decodes is contiguous, bounded, and encodes to an equal page.
#![no_main]

use lacuna_transport::limits::MAP_PAGE_RUNS_MAX;
use lacuna_transport::wire::map_page::MapPage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let Ok(page) = MapPage::decode(body) else { return };
    let mut at = page.range.start();
    for extent in page.extents() {
        assert_eq!(extent.range.start(), at);
        assert!(!extent.range.is_empty());
        at = extent.range.end();
    }
    assert_eq!(at, page.range.end());
    assert!(page.extents().len() <= MAP_PAGE_RUNS_MAX);
    assert!(page.extents().windows(2).all(|pair| pair[0].kind != pair[1].kind));
    assert_eq!(
        MapPage::decode(&page.encode()).expect("what was encoded decodes"),
        page
    );
});
