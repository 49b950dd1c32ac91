import type { PartFooter } from '../parts/footer.ts';
import type { PartTable } from '../parts/part.ts';

/** What all parts of an export have in common. */
export type ExportFacts = Pick<PartFooter, 'run' | 'source' | 'model' | 'topK'>;

/** A part in hand. */
export interface ExportPart {
  /** The Parquet object as it stands in the store. */
  bytes: Uint8Array;
  facts: ExportFacts;
  /** Decodes its rows. */
  read(): PartTable;
}

/** One file of an export, or one set of files that belong together. A new format is one more function that opens one. */
export interface ExportFile {
  /** Appends a part's rows, in order. */
  append(part: ExportPart): Promise<void>;
  /** Finishes the file. Called once, also after an append that failed. */
  close(): Promise<void>;
}

/** Where an ExportFile goes. */
export interface ExportTarget {
  /** An existing folder; names below it are the format's own. */
  folder: string;
  /** Counts the files of an export from 0. */
  index: number;
  /** The model's classes by index, where they are known. */
  labelNames: readonly string[] | undefined;
}
