#!/usr/bin/env bash
# Makes, in a folder, what releases are made of: a good archive, one that leads out of the release, and a repository.
set -euo pipefail
cd "$1"
mkdir source
echo 1.0 >source/file
tar -czf 1.0.tar.gz source
tar -cPf hostile.tar source/../source/file
cd source
git init --quiet
git add file
git -c user.name=t -c user.email=t@example.com commit --quiet --message 1.0
git tag v2
