//! The server in memory answers as a real one where tests rely on it.

use lacuna_transport::digest::Hashing;

use super::*;

#[tokio::test]
async fn digests_are_of_what_a_read_gives() {
    let remote = MemoryRemote::default();
    let path = NodePath::new(b"v").unwrap();
    remote.change(&path, |content| {
        content.write(ByteRange::new(5000, 9000).unwrap(), 7);
        content.resize(1 << 20);
    });
    let id = remote.stat(&path).await.unwrap().id;
    let shared = SharedPath::new(path.clone());
    let (volume, attr) = remote.open(&shared, id, Access::Read).await.unwrap();
    let units = UnitRange {
        origin: 100,
        range: ByteRange::new(100 + 4096, (1 << 20) + 50).unwrap(),
        unit_log2: 12,
        how: Hashing::Chained,
    };
    let len = usize::try_from(units.range.len()).unwrap();
    let (_, bytes) = remote.read(&volume, vec![units.range], &[len]).await.unwrap();
    let mut expected = InUnits::new(Hashing::Chained, 4096, 4096);
    expected.data(&bytes[0]);
    let digest = remote.digest(&volume, units).await.unwrap();
    assert_eq!(digest, (attr.base, expected.finish()));
    assert_eq!(remote.digested_bytes(), units.range.len());

    remote.forget(Features::DIGESTS);
    let error = remote.digest(&volume, units).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(remote.features().await.unwrap().contains(Features::HOLES));
}
