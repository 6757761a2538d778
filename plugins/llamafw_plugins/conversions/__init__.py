"""Conversions of Hugging Face checkpoints, one file per architecture, named as the architecture."""

from llamafw import Register, hookimpl
from llamafw_plugins.conversions.apertus import apertus
from llamafw_plugins.conversions.baichuan import baichuan
from llamafw_plugins.conversions.bert import bert, bert_ranker, jina_bert_v2, jina_bert_v3, nomic_bert, roberta
from llamafw_plugins.conversions.bitnet import bitnet
from llamafw_plugins.conversions.cohere2 import cohere2, command_r
from llamafw_plugins.conversions.deepseek2 import deepseek2, glm4_moe_lite, mistral4
from llamafw_plugins.conversions.dots1 import dots1
from llamafw_plugins.conversions.ernie4_5_moe import ernie4_5_moe
from llamafw_plugins.conversions.eurobert import eurobert
from llamafw_plugins.conversions.exaone4 import exaone4
from llamafw_plugins.conversions.falcon import falcon
from llamafw_plugins.conversions.falcon_h1 import falcon_h1
from llamafw_plugins.conversions.gemma import gemma
from llamafw_plugins.conversions.gemma2 import gemma2
from llamafw_plugins.conversions.gemma3 import gemma3, gemma_embedding
from llamafw_plugins.conversions.gemma3n import gemma3n
from llamafw_plugins.conversions.gemma4 import gemma4
from llamafw_plugins.conversions.glm4 import glm4, glm4moe
from llamafw_plugins.conversions.gpt2 import bloom, gpt2, gptneox, mpt
from llamafw_plugins.conversions.gpt_oss import gpt_oss
from llamafw_plugins.conversions.granite import granite, granitehybrid, granitemoe, minicpm
from llamafw_plugins.conversions.hunyuan_dense import hunyuan_dense
from llamafw_plugins.conversions.jamba import jamba
from llamafw_plugins.conversions.lfm2 import lfm2, lfm2moe
from llamafw_plugins.conversions.llama import ernie4_5, internlm2, llama, llama_embed, mixtral
from llamafw_plugins.conversions.llama4 import llama4
from llamafw_plugins.conversions.mamba import falcon_mamba, mamba, mamba2
from llamafw_plugins.conversions.minicpm3 import minicpm3
from llamafw_plugins.conversions.minimax_m2 import minimax_m2
from llamafw_plugins.conversions.mistral3 import ministral3, mistral, with_images
from llamafw_plugins.conversions.modern_bert import modern_bert
from llamafw_plugins.conversions.nemotron_h import nemotron_h
from llamafw_plugins.conversions.neo_bert import neo_bert
from llamafw_plugins.conversions.olmo2 import olmo2, olmo3, olmoe
from llamafw_plugins.conversions.phi2 import phi2
from llamafw_plugins.conversions.phi3 import phi3, phimoe
from llamafw_plugins.conversions.plamo2 import plamo2
from llamafw_plugins.conversions.qwen2 import qwen2, qwen2moe
from llamafw_plugins.conversions.qwen3 import qwen3, qwen3_ranker, qwen3moe
from llamafw_plugins.conversions.qwen35 import qwen3next, qwen35, qwen35moe
from llamafw_plugins.conversions.seed_oss import seed_oss
from llamafw_plugins.conversions.smollm3 import arcee, smollm3
from llamafw_plugins.conversions.stablelm import orion, stablelm
from llamafw_plugins.conversions.starcoder2 import starcoder2
from llamafw_plugins.conversions.t5encoder import t5encoder


@hookimpl
def register_conversions(register: Register) -> None:
    """Register every conversion by the class of transformers that ``config.json`` names."""
    for name, convert in (
        ("ApertusForCausalLM", apertus),
        ("ArceeForCausalLM", arcee),
        ("BaiChuanForCausalLM", baichuan),
        ("BaichuanForCausalLM", baichuan),
        ("BertForMaskedLM", bert),
        ("BertForSequenceClassification", bert_ranker),
        ("BertModel", bert),
        ("BitNetForCausalLM", bitnet),
        ("BloomForCausalLM", bloom),
        ("BloomModel", bloom),
        ("CamembertModel", roberta),
        ("Cohere2ForCausalLM", cohere2),
        ("CohereForCausalLM", command_r),
        ("DeepseekV2ForCausalLM", deepseek2),
        ("DeepseekV3ForCausalLM", deepseek2),
        ("Dots1ForCausalLM", dots1),
        ("Ernie4_5ForCausalLM", ernie4_5),
        ("Ernie4_5_ForCausalLM", ernie4_5),
        ("Ernie4_5_MoeForCausalLM", ernie4_5_moe),
        ("EuroBertModel", eurobert),
        ("Exaone4ForCausalLM", exaone4),
        ("FalconForCausalLM", falcon),
        ("FalconH1ForCausalLM", falcon_h1),
        ("FalconMambaForCausalLM", falcon_mamba),
        ("GPT2LMHeadModel", gpt2),
        ("GPTNeoXForCausalLM", gptneox),
        ("Gemma2ForCausalLM", gemma2),
        ("Gemma3ForCausalLM", gemma3),
        ("Gemma3ForConditionalGeneration", gemma3),
        ("Gemma3TextModel", gemma_embedding),
        ("Gemma3nForCausalLM", gemma3n),
        ("Gemma3nForConditionalGeneration", gemma3n),
        ("Gemma4ForCausalLM", gemma4),
        ("Gemma4ForConditionalGeneration", gemma4),
        ("GemmaForCausalLM", gemma),
        ("Glm4ForCausalLM", glm4),
        ("Glm4MoeForCausalLM", glm4moe),
        ("Glm4MoeLiteForCausalLM", glm4_moe_lite),
        ("GptOssForCausalLM", gpt_oss),
        ("GraniteForCausalLM", granite),
        ("GraniteMoeForCausalLM", granitemoe),
        ("GraniteMoeHybridForCausalLM", granitehybrid),
        ("GraniteMoeSharedForCausalLM", granitemoe),
        ("HunYuanDenseV1ForCausalLM", hunyuan_dense),
        ("InternLM2ForCausalLM", internlm2),
        ("JambaForCausalLM", jamba),
        ("JinaBertForMaskedLM", jina_bert_v2),
        ("JinaBertModel", jina_bert_v2),
        ("JinaEmbeddingsV3Model", jina_bert_v3),
        ("Lfm2ForCausalLM", lfm2),
        ("Lfm2MoeForCausalLM", lfm2moe),
        ("Llama4ForCausalLM", llama4),
        ("Llama4ForConditionalGeneration", llama4),
        ("LlamaBidirectionalModel", llama_embed),
        ("LlamaForCausalLM", llama),
        ("MPTForCausalLM", mpt),
        ("Mamba2ForCausalLM", mamba2),
        ("MambaForCausalLM", mamba),
        ("MiniCPM3ForCausalLM", minicpm3),
        ("MiniCPMForCausalLM", minicpm),
        ("MiniMaxM2ForCausalLM", minimax_m2),
        ("Ministral3ForCausalLM", ministral3),
        ("Mistral3ForConditionalGeneration", with_images),
        ("Mistral4ForCausalLM", mistral4),
        ("MistralForCausalLM", mistral),
        ("MixtralForCausalLM", mixtral),
        ("ModernBertForMaskedLM", modern_bert),
        ("ModernBertForSequenceClassification", modern_bert),
        ("ModernBertModel", modern_bert),
        ("MptForCausalLM", mpt),
        ("NemotronHForCausalLM", nemotron_h),
        ("NeoBERT", neo_bert),
        ("NeoBERTForSequenceClassification", neo_bert),
        ("NeoBERTLMHead", neo_bert),
        ("NomicBertModel", nomic_bert),
        ("Olmo2ForCausalLM", olmo2),
        ("Olmo3ForCausalLM", olmo3),
        ("OlmoeForCausalLM", olmoe),
        ("OrionForCausalLM", orion),
        ("Phi3ForCausalLM", phi3),
        ("PhiForCausalLM", phi2),
        ("PhiMoEForCausalLM", phimoe),
        ("PhimoeForCausalLM", phimoe),
        ("PLaMo2ForCausalLM", plamo2),
        ("Plamo2ForCausalLM", plamo2),
        ("Qwen2ForCausalLM", qwen2),
        ("Qwen2MoeForCausalLM", qwen2moe),
        ("Qwen3ForCausalLM", qwen3),
        ("Qwen3ForSequenceClassification", qwen3_ranker),
        ("Qwen3Model", qwen3),
        ("Qwen3MoeForCausalLM", qwen3moe),
        ("Qwen3NextForCausalLM", qwen3next),
        ("Qwen3_5ForCausalLM", qwen35),
        ("Qwen3_5ForConditionalGeneration", qwen35),
        ("Qwen3_5MoeForCausalLM", qwen35moe),
        ("Qwen3_5MoeForConditionalGeneration", qwen35moe),
        ("RWForCausalLM", falcon),
        ("RobertaForSequenceClassification", roberta),
        ("RobertaModel", roberta),
        ("SeedOssForCausalLM", seed_oss),
        ("SmolLM3ForCausalLM", smollm3),
        ("StableLMEpochForCausalLM", stablelm),
        ("StableLmForCausalLM", stablelm),
        ("Starcoder2ForCausalLM", starcoder2),
        ("T5EncoderModel", t5encoder),
        ("T5ForConditionalGeneration", t5encoder),
        ("T5Model", t5encoder),
        ("XLMRobertaForSequenceClassification", roberta),
        ("XLMRobertaModel", roberta),
    ):
        register(name, convert)
