/**
 * What `import … from 'lensmill'` gives: runs, their rows and retrieval, as the commands have them. It prints nothing, listens to no signal
 * and ends no process. docs/api-typescript.md shows it at work, and promises what stays.
 */
export { ConfigError, type FailureCode, ImageError } from './errors.ts';
export { openOutput } from './library/output.ts';
export { enqueueRun, indexRun, resumeRun } from './library/runs.ts';
export { buildIndex, openIndex, search } from './library/search.ts';
export type {
  BuildIndexOptions,
  BuiltIndex,
  DuplicateGroup,
  Duplicates,
  DuplicatesOptions,
  EnqueuedRun,
  EnqueueOptions,
  FailedRow,
  Filter,
  FinishedRun,
  Hit,
  ImageContent,
  Index,
  IndexedImage,
  IndexOptions,
  Label,
  OkRow,
  OpenIndexOptions,
  OpenOptions,
  Output,
  Progress,
  Query,
  QueueStatus,
  ResumeOptions,
  Row,
  RunStatus,
  SearchOptions,
  Verification,
} from './library/types.ts';
export { version } from './version.ts';
