//! What a folder holds.

use super::*;

#[test]
fn a_folder_is_read_file_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let put = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
    let pod = |name: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: []}}")
    };
    put("a.yaml", &pod("one"));
    put("b.yaml", &pod("one"));
    put("c.json", r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "two"}, "spec": {}}"#);
    put(".hidden.yaml", &pod("three"));
    put("empty.yaml", "");
    put("broken.yaml", "a: [");
    fs::create_dir(folder.path().join("inner")).unwrap();
    let (wanted, wrong) = read_folder(folder.path(), "n").unwrap();
    assert_eq!(wanted.keys().collect::<Vec<_>>(), ["default/one-n", "default/two-n"]);
    let wrong: Vec<_> =
        wrong.iter().map(|(file, why)| (file.file_name().unwrap().to_str().unwrap(), why)).collect();
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].0 == "b.yaml" && wrong[0].1.contains("in another file"), "{wrong:?}");
    assert!(wrong[1].0 == "broken.yaml" && wrong[1].1.contains("yaml: line"), "{wrong:?}");
}
