/**
 * Trained weights that have a name. Sources: preprocessing and licences from timm's `timm/models/resnet.py` (`resize` is
 * crop ÷ crop_pct, rounded down, as its transform does it), accuracies from torchvision's weights and timm's results, at
 * this preprocessing.
 */
import type { Preprocessing } from '../types.ts';

export interface Preset {
  /** What the user types and what `ModelIdentity.ref` keeps. */
  name: string;
  /** Shorter names for the same. */
  aliases: readonly string[];
  /** On the Hugging Face hub. */
  repository: string;
  file: string;
  /** Of the file; where it is not known here, the first download pins it (see `pull.ts`). */
  sha256?: string;
  preprocessing: Preprocessing;
  /** ImageNet-1k validation, top-1, percent. */
  accuracy: number;
  /** SPDX. */
  license: string;
}

/** Resize 256, crop 224, bilinear, ImageNet's means: torchvision's first recipe, and the guess where nothing is known. */
export const imagenetPreprocessing: Preprocessing = {
  resize: 256,
  crop: 224,
  interpolation: 'bilinear',
  mean: [0.485, 0.456, 0.406],
  std: [0.229, 0.224, 0.225],
};

const firstRecipe = {
  file: 'model.safetensors',
  preprocessing: imagenetPreprocessing,
  license: 'BSD-3-Clause',
};
const secondRecipe = { ...firstRecipe, preprocessing: { ...imagenetPreprocessing, resize: 232 } };

/** The first one is the default. */
export const presets: readonly [Preset, ...Preset[]] = [
  {
    ...firstRecipe,
    name: 'timm/resnet152.tv_in1k',
    aliases: ['resnet152', 'resnet152.tv_in1k'],
    repository: 'timm/resnet152.tv_in1k',
    sha256: '15897077afdf4d6334dc0c3f8e6fb483afb3faa9298c139f3c6eb29bca6ae5b2',
    accuracy: 78.3,
  },
  {
    ...secondRecipe,
    name: 'timm/resnet152.tv2_in1k',
    aliases: ['resnet152.tv2_in1k'],
    repository: 'timm/resnet152.tv2_in1k',
    accuracy: 82.3,
  },
  {
    name: 'timm/resnet152.a1h_in1k',
    aliases: ['resnet152.a1h_in1k'],
    repository: 'timm/resnet152.a1h_in1k',
    file: 'model.safetensors',
    preprocessing: { ...imagenetPreprocessing, resize: 235, interpolation: 'bicubic' },
    accuracy: 82.8,
    license: 'Apache-2.0',
  },
  {
    ...firstRecipe,
    name: 'timm/resnet101.tv_in1k',
    aliases: ['resnet101', 'resnet101.tv_in1k'],
    repository: 'timm/resnet101.tv_in1k',
    accuracy: 77.4,
  },
  {
    ...firstRecipe,
    name: 'timm/resnet50.tv_in1k',
    aliases: ['resnet50', 'resnet50.tv_in1k'],
    repository: 'timm/resnet50.tv_in1k',
    accuracy: 76.1,
  },
];

/** By name or alias. */
export function findPreset(ref: string): Preset | undefined {
  return presets.find(({ name, aliases }) => name === ref || aliases.includes(ref));
}
