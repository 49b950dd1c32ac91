/** Given to `node --import`, by NODE_OPTIONS: worker processes end before they have begun. */
if (/workers\/worker\.[jt]s$/.test(process.argv[1] ?? '')) {
  process.stderr.write('libcudart.so: the last words of a worker\n');
  process.exit(134);
}
