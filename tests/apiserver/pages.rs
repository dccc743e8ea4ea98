//! Lists in pages over HTTP.

use serde_json::json;

use super::server::{Fixture, MAPS, names};

#[tokio::test]
async fn pages_show_one_state_until_it_is_forgotten() {
    let f = Fixture::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        f.config(name).await;
    }
    let first = f.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    f.delete(&format!("{MAPS}/c")).await.expect(200);
    f.config("cc").await;
    let second = f.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let last = second["metadata"]["continue"].as_str().unwrap();
    let third = f.get(&format!("{MAPS}?limit=2&continue={last}")).await.expect(200);
    assert_eq!(names(&third), ["e"]);
    assert!(third["metadata"].get("continue").is_none_or(|t| t == ""), "{third}");

    let refused = f.get(&format!("{MAPS}?limit=2&continue={token}&resourceVersion=5")).await.expect(400);
    assert_eq!(refused["message"], "specifying resource version is not allowed when using continue");
    f.get(&format!("{MAPS}?limit=2&continue={token}&resourceVersion=0")).await.expect(200);
    let refused = f.get(&format!("{MAPS}?sendInitialEvents=true")).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("forbidden for list"), "{refused}");

    let store = f.api.registry().store();
    store.compact(store.revision()).await.unwrap();
    let gone = f.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(410);
    assert_eq!(gone["reason"], "Expired");
    let token = gone["metadata"]["continue"].as_str().unwrap();
    let rest = f.get(&format!("{MAPS}?continue={token}")).await.expect(200);
    assert_eq!(names(&rest), ["cc", "d", "e"]);
    assert_eq!(f.get(&format!("{MAPS}?continue=rubbish")).await.expect(400)["reason"], json!("BadRequest"));
}
