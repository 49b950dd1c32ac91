/** Class names. Results carry indices; a name is looked up only where a person reads it. */
import imagenet from './labels.json' with { type: 'json' };

/**
 * The names of ImageNet-1k's classes by index, as torchvision lists them (`torchvision.models._meta`); for a network with
 * another number of classes, whose names no file tells, 'class 0', 'class 1' ….
 */
export function labelsOf(classes: number): readonly string[] {
  return classes === imagenet.length
    ? imagenet
    : Array.from({ length: classes }, (_, index) => `class ${index}`);
}
