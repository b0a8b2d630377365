"""One deconvnet in pictures: an image, its strongest activations, and what each looks like projected back to pixels.

``network``      the case for one image, up to a layer; receptive fields
``scene``        the image: read, or drawn                    ``bank``         filters that are drawn
``weights``      a user's weights                             ``activations``  which ones are projected
``projections``  by the oracle and by targets                 ``readings``     by the oracle, with other policies
``words``        what policies mean                           ``pictures``     arrays to PNG
``page``         all of it as HTML                            ``figure``       as a figure for print
"""
