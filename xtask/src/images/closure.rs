//! Which Debian packages a program needs: the packages that its own depends on, and theirs.

use std::collections::{BTreeMap, BTreeSet};

/// What `dpkg-query` is asked for: a line for every package.
pub(super) const FORMAT: &str =
    "${db:Status-Abbrev}\t${Package}\t${Version}\t${Depends}, ${Pre-Depends}\t${Provides}\n";

/// An installed package and its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
}

/// The installed packages that `roots` need, themselves included, in the order of their names; `status` is what
/// `dpkg-query` says. `Err` names a root that is not installed.
pub(super) fn closure(status: &str, roots: &[&str]) -> Result<Vec<Package>, String> {
    let installed: Vec<Vec<&str>> =
        status.lines().map(|line| line.split('\t').collect()).filter(|fields: &Vec<_>| is_installed(fields)).collect();
    let mut depends = BTreeMap::new();
    let mut owner_of = BTreeMap::new();
    for fields in &installed {
        let &[_, name, version, dependencies, provides] = fields.as_slice() else { continue };
        depends.insert(name, (version, dependencies));
        owner_of.insert(name, name);
        for provided in names(provides) {
            owner_of.entry(provided).or_insert(name);
        }
    }
    if let Some(missing) = roots.iter().find(|root| !owner_of.contains_key(*root)) {
        return Err((*missing).to_owned());
    }
    let mut needed = BTreeSet::new();
    let mut open: Vec<&str> = roots.to_vec();
    while let Some(name) = open.pop() {
        // Something that is not installed is one alternative of a dependency that another fulfils.
        let Some(&name) = owner_of.get(name) else { continue };
        if let Some((version, dependencies)) = depends.get(name)
            && needed.insert(Package { name: name.to_owned(), version: (*version).to_owned() })
        {
            open.extend(names(dependencies));
        }
    }
    Ok(needed.into_iter().collect())
}

fn is_installed(fields: &[&str]) -> bool {
    fields.first().is_some_and(|state| state.starts_with("ii"))
}

/// The names in a list such as `a (>= 1), b:any | c`.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split([',', '|'])
        .map(|item| item.trim().split([' ', ':', '(']).next().unwrap_or_default())
        .filter(|n| !n.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "ii \tgcc\t12\tcpp (= 12), libc6-dev | libc-dev, \t\n\
        ii \tcpp\t12\tlibc6:any (>= 2), awk, \t\n\
        ii \tlibc6\t2.36\t, libgcc-s1\t\n\
        ii \tlibgcc-s1\t12\tlibc6, \t\n\
        ii \tmawk\t1.3\tlibc6, \tawk\n\
        rc \tlibc6-dev\t2.36\tlibc6, \t\n\
        ii \tvim\t9\tlibc6, \t\n";

    fn of(roots: &[&str]) -> Result<Vec<String>, String> {
        Ok(closure(STATUS, roots)?.into_iter().map(|package| package.name).collect())
    }

    #[test]
    fn dependencies_of_dependencies_are_needed_once() {
        assert_eq!(of(&["gcc"]).unwrap(), ["cpp", "gcc", "libc6", "libgcc-s1", "mawk"]);
    }

    #[test]
    fn a_root_that_is_not_installed_is_named() {
        assert_eq!(of(&["gcc", "libc6-dev"]).unwrap_err(), "libc6-dev");
    }

    #[test]
    fn versions_come_along() {
        let package = Package { name: "libc6".to_owned(), version: "2.36".to_owned() };
        assert!(closure(STATUS, &["libc6"]).unwrap().contains(&package));
    }
}
